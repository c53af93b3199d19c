// SPDX-License-Identifier: Apache-2.0
/** What computes: a GPU, where there is one that the programs can use and that computes what it should, else WASM. */

import { checkPrograms } from "./conformance.mjs";
import { IntegrityError } from "./integrity.mjs";

const MAX_THREADS = 4; // small programs gain nothing from more
const CASES = 3; // golden cases of each program that a GPU has to repeat before it is used
const RUNTIMES = {
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"],
  webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
};
export const TITLES = { wasm: "WebAssembly", webgpu: "WebGPU" };

/** Files of onnxruntime-web that a provider needs. @param {"wasm"|"webgpu"} provider */
export function runtimeFiles(provider) {
  return RUNTIMES[provider].map((name) => `ort/${name}`);
}

/**
 * Choose without loading anything.
 *
 * @param {object} options
 * @param {boolean} options.canUseGpu whether the programs can run there
 * @param {string} options.precision of the programs
 * @param {GPU|undefined} options.gpu of the navigator
 * @param {string|null} options.wish "wasm" or "webgpu" of the address; the latter takes a GPU made of software too
 * @returns {Promise<{provider: "wasm"|"webgpu", why: string}>}
 */
export async function chooseProvider({ canUseGpu, precision, gpu, wish }) {
  const wasm = (why) => ({ provider: "wasm", why });
  if (!canUseGpu) return wasm(`WebGPU has no kernels for the operators of ${precision} programs`);
  if (wish === "wasm") return wasm("the address asks for it");
  if (!gpu) return wasm("this browser has no WebGPU");
  const adapter = await gpu.requestAdapter().catch(() => null);
  if (!adapter) return wasm("this browser gives no GPU to WebGPU");
  const { vendor, architecture, isFallbackAdapter } = adapter.info ?? {};
  const isSoftware = isFallbackAdapter || architecture === "swiftshader";
  if (isSoftware && wish !== "webgpu") return wasm("the only GPU of this browser is made of software");
  return { provider: "webgpu", why: [vendor, architecture].filter(Boolean).join(" ") || "a GPU that is not named" };
}

/** Threads that a page may use. */
export function threadsOf({ hardwareConcurrency }, isIsolated) {
  return isIsolated ? Math.min(MAX_THREADS, hardwareConcurrency || 1) : 1;
}

/**
 * Load the bundle with the provider that was chosen, or with WebAssembly if that one fails or computes otherwise.
 *
 * @param {{provider: string, why: string}} chosen
 * @param files to read from; those of the chosen runtime were checked
 * @param {URL} base of the site
 * @returns {Promise<{model, provider, why, note?: string}>} `note` is for the user: a GPU is there and is not used
 * @throws {IntegrityError} a file is not what it should be
 */
export async function openModel({ provider, why }, files, base) {
  if (provider === "wasm") return { model: await open("wasm", files, base), provider, why };
  let model, problem;
  try {
    model = await open(provider, files, base);
    [problem] = await checkPrograms(model, files, CASES);
  } catch (error) {
    if (error instanceof IntegrityError) throw error;
    problem = error.message;
  }
  if (!problem) return { model, provider, why: `${why}; it repeated ${CASES} golden cases of each program` };
  await model?.release().catch(() => {}); // a device that is lost has nothing to free
  const reason = `WebGPU computes otherwise on this device, or not at all: ${problem}`;
  return { model: await open("wasm", files, base), provider: "wasm", why: reason, note: `${reason}. WebAssembly is used.` };
}

async function open(provider, files, base) {
  const [module, glue, binary] = runtimeFiles(provider);
  await files.keep([module, glue, binary], () => {});
  const ort = await import(new URL(module, base));
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL("ort/", base).href;
  ort.env.wasm.wasmBinary = await files.read(binary);
  const { openBundle } = await import(new URL("bundle/dmedge.mjs", base));
  const model = await openBundle({
    ort,
    threads: threadsOf(navigator, Boolean(self.crossOriginIsolated)),
    providers: [provider],
    base: new URL("bundle/", base),
    readBytes: (url) => files.read(url.href.slice(base.href.length)),
  });
  const ran = model.providers?.[0] ?? "wasm"; // a bundle of an older dmedge takes no providers
  if (ran !== provider) throw new Error(`the loader of this bundle runs ${ran} alone; export the bundle again`);
  return model;
}
