// SPDX-License-Identifier: Apache-2.0
/**
 * An image-text model in the browser: loads the bundle that this file lies in and runs it by onnxruntime-web.
 *
 *   import * as ort from "./ort/ort.wasm.min.mjs";
 *   import { openBundle } from "./bundle/dmedge.mjs";
 *   const model = await openBundle({ ort });
 *   const { embedding } = await model.encodeText("red apple");
 *
 * A bundle may be of a variant with fewer programs; the methods that it has no program for are undefined.
 */

import { preprocess } from "./pixels.mjs";
import { Tokenizer } from "./tokenizer.mjs";

const SCHEMA = 1; // of manifest.json
const RUNTIME = "onnxruntime";
const METHODS = {
  encodeText: "encode_text",
  encodeImage: "encode_image",
  fuse: "fuse",
  fusePair: "fuse_pair",
  classify: "classify",
};

/**
 * Load a bundle, after checking the sha256 of every file that is read.
 *
 * @param {object} options
 * @param {object} options.ort the module of onnxruntime-web, with `env.wasm.wasmPaths` set if need be
 * @param {number} [options.threads] of a run; 1 where the page is not cross-origin isolated, which threads need
 * @param {string[]} [options.providers] of onnxruntime-web, which the module must hold: "webgpu" where it is float32
 * @param {URL|string} [options.base] of the bundle, ending in a slash, where it is not the folder of this file
 * @param {(url: URL) => Promise<ArrayBuffer>} [options.readBytes] where files come from, if not from the network
 * @throws {Error} a file is missing or was changed, or the manifest is not one that this loader knows
 */
export async function openBundle({
  ort,
  threads = 1,
  providers = ["wasm"],
  base = new URL("./", import.meta.url),
  readBytes = fetchBytes,
}) {
  const manifest = JSON.parse(new TextDecoder().decode(await readBytes(new URL("manifest.json", base))));
  if (manifest.schema_version !== SCHEMA || manifest.kind !== "bundle") {
    const found = `${manifest.kind} of schema ${manifest.schema_version}`;
    throw new Error(`manifest.json: found a ${found}; expected a bundle of schema ${SCHEMA}`);
  }
  const read = (name) => readFile(base, manifest, name, readBytes);
  const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? threads : 1;
  const sessions = {};
  for (const program of manifest.programs.filter(({ runtime }) => runtime === RUNTIME)) {
    const content = new Uint8Array(await read(program.file));
    sessions[program.name] = await ort.InferenceSession.create(content, { executionProviders: providers });
  }
  const has = (name) => name in manifest.files; // a variant has only what its programs need
  const files = {
    tokenizer: await openTokenizer(has, read, manifest.summary.context_length),
    preprocessing: has("preprocessor_config.json") ? await json("preprocessor_config.json") : undefined,
    labels: has("labels.json") ? await json("labels.json") : [],
    answers: has("answers.json") ? await json("answers.json") : [],
  };
  return new Model(ort, manifest, sessions, { ...files, providers });
}

/** A loaded bundle. Embeddings have unit length: the dot product of two is the score of a picture for a text. */
export class Model {
  constructor(ort, manifest, sessions, files) {
    Object.assign(this, { ort, manifest, sessions, ...files });
    for (const [method, program] of Object.entries(METHODS)) if (!(program in sessions)) this[method] = undefined;
  }

  /** @returns {Promise<{embedding: Float32Array, tokens: object, mask: object}>} the last two are for `fuse` */
  async encodeText(text) {
    const inputs = this.textTensors(text);
    const { embedding, tokens } = await this.sessions.encode_text.run(inputs);
    return { embedding: embedding.data, tokens, mask: inputs.mask };
  }

  /**
   * @param {Blob|ImageBitmap|ImageData} picture a file, or one decoded as `decodePicture` does, or RGBA pixels
   * @returns {Promise<{embedding: Float32Array, patches: object}>} the last is for `fuse`
   */
  async encodeImage(picture) {
    const { embedding, patches } = await this.sessions.encode_image.run(await this.imageTensors(picture));
    return { embedding: embedding.data, patches };
  }

  /**
   * The variant `prompts`: which label fits a picture best.
   *
   * @returns {Promise<{label: string, scores: Float32Array, embedding: Float32Array}>} a score for each of `labels`
   */
  async classify(picture) {
    const { scores, embedding } = await this.sessions.classify.run(await this.imageTensors(picture));
    const best = scores.data.reduce((best, score, i) => (score > scores.data[best] ? i : best), 0);
    return { label: this.labels[best], scores: scores.data, embedding: embedding.data };
  }

  /** The variant `fused`: as `fuse`, from the picture and the text themselves. */
  async fusePair(picture, text) {
    return logits(await this.sessions.fuse_pair.run({ ...(await this.imageTensors(picture)), ...this.textTensors(text) }));
  }

  /** What `encodeImage` feeds to the program: uint8 [size, size, 3]. */
  async pixels(picture) {
    const decoded = picture instanceof Blob ? await decodePicture(picture) : picture;
    return preprocess(decoded.data ? decoded : readPixels(decoded), this.preprocessing);
  }

  /**
   * How well a picture and a text fit, from what the encoders returned.
   *
   * @returns {Promise<{match: number, classes?: Float32Array, answers?: Float32Array}>} logits; `labels` and
   *   `answers` of the model name those of the heads that it has
   */
  async fuse({ patches }, { tokens, mask }) {
    return logits(await this.sessions.fuse.run({ patches, tokens, mask }));
  }

  /** What a program takes of a text. */
  textTensors(text) {
    const { ids, mask } = this.tokenizer.row(text);
    const tensor = (numbers) => new this.ort.Tensor("int32", Int32Array.from(numbers), [1, numbers.length]);
    return { ids: tensor(ids), mask: tensor(mask) };
  }

  /** What a program takes of a picture. */
  async imageTensors(picture) {
    const { size } = this.preprocessing;
    return { pixels: new this.ort.Tensor("uint8", await this.pixels(picture), [1, size, size, 3]) };
  }

  /** Free the memory of the programs. */
  async release() {
    await Promise.all(Object.values(this.sessions).map((session) => session.release()));
  }
}

/** The tokenizer of dmedge's own vocabularies or of an imported model, whichever the bundle has. */
async function openTokenizer(has, read, contextLength) {
  if (!has("tokenizer_rules.json")) {
    return has("tokenizer.model") ? new Tokenizer(await read("tokenizer.model"), contextLength) : undefined;
  }
  const { openImported } = await import("./imported.mjs").catch((error) => {
    throw new Error(`imported.mjs: ${error.message}; expected it beside dmedge.mjs; load the bundle by its own dmedge.mjs`);
  });
  return openImported(has, read, contextLength);
}

function logits({ match, ...heads }) {
  const found = Object.entries(heads).map(([name, tensor]) => [name, tensor.data]);
  return { match: match.data[0], ...Object.fromEntries(found) };
}

/** Decode a file upright, with its colours as they are stored and alpha not multiplied in. */
export function decodePicture(blob) {
  return createImageBitmap(blob, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
}

/** RGBA pixels of a decoded picture. A 2D canvas would multiply alpha in, which loses bits, so WebGL reads them. */
function readPixels(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  }
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8ClampedArray(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(data.buffer));
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep few contexts
  return { width, height, data };
}

async function readFile(base, manifest, name, readBytes) {
  const want = manifest.files[name];
  if (!want) throw new Error(`manifest.json: names no file ${name}; export the bundle again`);
  const content = await readBytes(new URL(name, base));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (sha256 !== want.sha256) {
    const [found, expected] = [sha256, want.sha256].map((hex) => hex.slice(0, 12));
    throw new Error(`${name}: sha256 ${found} differs from the manifest's ${expected}; deploy the bundle again`);
  }
  return content;
}

async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: status ${response.status}; expected the file; deploy the bundle again`);
  return response.arrayBuffer();
}
