// SPDX-License-Identifier: Apache-2.0
/**
 * What the page does for `dmedge.runtime.browser_session`: everything by the loader of the bundle.
 *
 * Arrays travel as in `dmedge.runtime.wire`: per position [dtype, int32 shapes [n, rank], data], in base64.
 */

import { describeAdapter } from "/adapter.mjs";
import { openBundle } from "/bundle/dmedge.mjs";

const TYPES = { "|u1": ["uint8", Uint8Array], "<i4": ["int32", Int32Array], "<f4": ["float32", Float32Array] };
const DTYPES = Object.fromEntries(Object.entries(TYPES).map(([dtype, [type]]) => [type, dtype]));

let printed = []; // by the profiler of onnxruntime, which knows no other way out of the page

let ort, model, options;

/** Load the bundle by a provider of onnxruntime-web; `adapter` is what that computes on, if it is a GPU. */
export async function load({ threads, provider }) {
  console.log = (...parts) => printed.push(parts.join(" ")); // before onnxruntime-web takes hold of it
  ort = await import(`/ort/ort.${provider}.min.mjs`);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = "/ort/";
  options = { ort, threads, providers: [provider] };
  const start = performance.now();
  model = await openBundle(options);
  const loadMs = performance.now() - start;
  const ran = model.providers?.[0] ?? "wasm"; // the loader of an older bundle takes no providers
  if (ran !== provider) throw new Error(`the loader of this bundle runs ${ran} alone; export the bundle again`);
  const adapter = provider === "webgpu" ? describeAdapter((await ort.env.webgpu.device).adapterInfo) : null;
  return { loadMs, threads: ort.env.wasm.numThreads, version: ort.env.versions.web, adapter };
}

/**
 * Which provider runs each operator: by the profiler, in sessions of their own, since it slows what it watches.
 *
 * @param {{program: string, packed: Array}[]} cases one for each program
 * @returns {Promise<Object<string, {operator: string, provider: string, types: string[]}[]>>} types are of its outputs
 */
export async function placements(cases) {
  const create = (content, chosen) => ort.InferenceSession.create(content, { ...chosen, enableProfiling: true });
  const watched = await openBundle({ ...options, ort: { ...ort, InferenceSession: { create } } });
  const found = {};
  for (const { program, packed } of cases) {
    const session = watched.sessions[program];
    await session.run(unpack(program, packed, 1)[0]);
    printed = [];
    session.endProfiling();
    found[program] = printed.filter((line) => line.includes("_kernel_time")).map(readEvent);
  }
  await watched.release();
  return found;
}

function readEvent(line) {
  const { op_name, provider, output_type_shape } = JSON.parse(line.replace(/,\s*$/, "")).args;
  return { operator: op_name, provider, types: output_type_shape.flatMap(Object.keys) };
}

/** Run one program for each of `count` packed items; outputs by their place in the manifest. */
export async function run({ program, packed, count, outputs }) {
  const results = [];
  for (const feeds of unpack(program, packed, count)) results.push(await model.sessions[program].run(feeds));
  const names = outputs.map((index) => spec(program).outputs[index].name);
  return names.map((name) => packPosition(results.map((result) => result[name])));
}

/** Nanoseconds of each of `runs` executions. */
export async function time({ program, packed, runs }) {
  const [feeds] = unpack(program, packed, 1);
  const elapsed = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await model.sessions[program].run(feeds);
    elapsed.push(Math.round((performance.now() - start) * 1e6));
  }
  return elapsed;
}

export function tokenize(texts) {
  return texts.map((text) => model.tokenizer.encode(text));
}

/** Pixels of pictures of the bundle, in base64. */
export async function pixels(files) {
  const found = [];
  for (const file of files) {
    const picture = await (await fetch(`/bundle/${file}`)).blob();
    found.push(toBase64(await model.pixels(picture)));
  }
  return found;
}

function spec(program) {
  return model.manifest.programs.find(({ name, runtime }) => name === program && runtime === "onnxruntime");
}

function unpack(program, packed, count) {
  const items = Array.from({ length: count }, () => ({}));
  spec(program).inputs.forEach(({ name }, position) => {
    const [dtype, shapes, data] = packed[position];
    const [type, array] = TYPES[dtype];
    const sizes = new Int32Array(fromBase64(shapes).buffer);
    const flat = new array(fromBase64(data).buffer);
    const rank = sizes.length / count;
    let start = 0;
    items.forEach((item, i) => {
      const shape = [...sizes.subarray(i * rank, (i + 1) * rank)];
      const end = start + shape.reduce((product, size) => product * size, 1);
      item[name] = new ort.Tensor(type, flat.slice(start, end), shape);
      start = end;
    });
  });
  return items;
}

function packPosition(tensors) {
  const shapes = Int32Array.from(tensors.flatMap(({ dims }) => [...dims]));
  const data = new Uint8Array(tensors.reduce((total, tensor) => total + tensor.data.byteLength, 0));
  let start = 0;
  for (const tensor of tensors) {
    data.set(new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength), start);
    start += tensor.data.byteLength;
  }
  return [DTYPES[tensors[0].type], toBase64(shapes), toBase64(data)];
}

function fromBase64(content) {
  return Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
}

function toBase64(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let content = "";
  for (let i = 0; i < bytes.length; i += 0x8000) content += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(content);
}
