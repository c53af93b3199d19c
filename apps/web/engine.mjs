// SPDX-License-Identifier: Apache-2.0
/**
 * The worker that computes: it loads bundle and index, embeds texts and pictures, and ranks. The page stays quick.
 *
 * It answers messages {id, call, argument} with {id, value} or {id, error}, and reports {id, progress} on the way.
 */

import { replay } from "./conformance.mjs";
import { IntegrityError, readSite } from "./integrity.mjs";
import { Rows, selectNumbers } from "./rows.mjs";
import { TITLES, chooseProvider, openModel, runtimeFiles } from "./runtime.mjs";
import { readNpy } from "./arrays.mjs";
import { percentiles } from "./timing.mjs";
import { WordRows } from "./words.mjs";

const BASE = new URL("./", import.meta.url);
const TIMED = { text: 40, picture: 20 };

let model; // of the bundle's own loader
let site, files, gallery, words;
let own = new Map(); // id -> row of a picture of the user
let turn = Promise.resolve(); // programs run one after another

const calls = { load, search, similar, bestWords, names, embedPicture, forget, remember, measure, conform, licences };

self.onmessage = async ({ data: { id, call, argument } }) => {
  const report = (progress) => self.postMessage({ id, progress });
  try {
    self.postMessage({ id, value: await calls[call](argument, report) });
  } catch (error) {
    self.postMessage({ id, error: { message: error.message, isIntegrity: error instanceof IntegrityError } });
  }
};

/** Check every file of bundle, index and runtime, and only then load them. @param {{wish: string|null}} argument */
async function load(argument, report) {
  const begun = performance.now();
  const read = await readSite(BASE);
  ({ site, files } = read);
  const { precision } = read.manifests.bundle.summary;
  const wish = argument?.wish ?? null;
  const chosen = await chooseProvider({ canUseGpu: site.webgpu, precision, gpu: navigator.gpu, wish });
  const paths = Object.keys(files.digests).filter((path) => /^(bundle|index)\//.test(path));
  paths.push(...runtimeFiles(chosen.provider));
  const total = paths.reduce((sum, path) => sum + files.digests[path].size_bytes, 0);
  let done = 0;
  await files.keep(paths, (bytes) => report({ done: (done += bytes), total }));
  const checked = performance.now();
  const opened = await openModel(chosen, files, BASE);
  model = opened.model;
  gallery = await openGallery(read.manifests.index);
  words = new WordRows({ files, site, embed: embedText, width: gallery.rows.width });
  const sheets = await Promise.all(sheetNames().map(async (name) => new Blob([await files.read(name)])));
  files.letGo();
  await embedText("warm up");
  return {
    site,
    manifests: read.manifests,
    items: gallery.items,
    sheets,
    checkedFiles: paths.length,
    checkedBytes: total,
    checkMs: checked - begun,
    loadMs: performance.now() - begun,
    threads: model.ort.env.wasm.numThreads,
    isIsolated: Boolean(self.crossOriginIsolated),
    runtime: `onnxruntime-web ${model.ort.env.versions.web}, ${TITLES[opened.provider]}`,
    provider: opened.provider,
    why: opened.why,
    note: opened.note,
  };
}

async function openGallery(manifest) {
  const { selection, dims: width, thumbnails } = manifest.summary;
  const read = async (name) => (manifest.files[name] ? readNpy(await files.read(`index/${name}`)).data : null);
  const [codes, scales, dims] = [await read("vectors.npy"), await read("scales.npy"), await read("dims.npy")];
  const items = await files.json("index/items.json");
  return { items, rows: new Rows(codes, scales, width), dims, selection, thumbnails, width };
}

function sheetNames() {
  return Object.keys(files.digests).filter((path) => path.startsWith("index/thumbnails/")).sort();
}

/** One program run after another, in the order they were asked for. */
function inTurn(work) {
  const result = turn.then(work);
  turn = result.catch(() => {});
  return result;
}

async function embedText(text) {
  const { embedding } = await inTurn(() => model.encodeText(text));
  return selectNumbers(embedding, gallery.dims, gallery.selection);
}

/** @returns {{matches: {key: number|string, score: number}[], encodeMs: number, rankMs: number}} */
async function search({ text, top, scope }) {
  const begun = performance.now();
  const query = await embedText(text);
  const encoded = performance.now();
  return { matches: rank(query, top, scope), encodeMs: encoded - begun, rankMs: performance.now() - encoded };
}

/** What looks like a picture, which is left out itself. */
function similar({ key, top }) {
  return { matches: rank(rowOf(key), top + 1, "all").filter((match) => match.key !== key).slice(0, top) };
}

function rank(query, top, scope) {
  const matches = [];
  if (scope !== "own") {
    for (const { place, score } of gallery.rows.best(query, top)) matches.push({ key: place, score });
  }
  if (scope !== "gallery") {
    for (const [key, row] of own) {
      matches.push({ key, score: row.reduce((sum, value, i) => sum + value * query[i], 0) });
    }
  }
  return matches.sort((a, b) => b.score - a.score).slice(0, top);
}

function rowOf(key) {
  return typeof key === "number" ? gallery.rows.row(key) : own.get(key);
}

/** The words of a language that say best what a picture shows. */
async function bestWords({ key, language, top }, report) {
  const { names: found, rows } = await words.of(language, report);
  return rows.best(rowOf(key), top).map(({ place, score }) => ({ word: found[place], score }));
}

/** Names of the emoji in a language, by character. */
async function names({ language }) {
  const read = (name) => files.json(`words/${name}.json`);
  const [characters, table] = await Promise.all([read("characters"), read(language)]);
  return Object.fromEntries(characters.map((character, i) => [character, table[i]]).filter(([, name]) => name));
}

/** Embed a picture of the user and search in it from now on. @returns {Promise<{row: Float32Array, ms: number}>} */
async function embedPicture({ id, blob }) {
  const begun = performance.now();
  const pixels = await model.pixels(blob); // decoding may take long, and blocks no query
  const { size } = model.preprocessing;
  const tensor = new model.ort.Tensor("uint8", pixels, [1, size, size, 3]);
  const { embedding } = await inTurn(() => model.sessions.encode_image.run({ pixels: tensor }));
  const row = selectNumbers(embedding.data, gallery.dims, gallery.selection);
  own.set(id, row);
  return { row, ms: performance.now() - begun };
}

function remember(rows) {
  own = new Map(rows);
}

function forget(id) {
  own.delete(id);
}

/** Latency on this device: whole calls, from text or decoded pixels to the ranked list. */
async function measure(_, report) {
  const { size } = model.preprocessing;
  const pixels = new model.ort.Tensor("uint8", new Uint8Array(size * size * 3).fill(200), [1, size, size, 3]);
  const kinds = {
    text: () => search({ text: "red apple", top: 48, scope: "all" }),
    picture: () => inTurn(() => model.sessions.encode_image.run({ pixels })),
  };
  const found = {};
  for (const [kind, work] of Object.entries(kinds)) {
    const samples = [];
    for (let i = 0; i < TIMED[kind] + 3; i++) {
      const begun = performance.now();
      await work();
      if (i >= 3) samples.push(performance.now() - begun); // the first ones warm up
    }
    found[kind] = percentiles(samples);
    report(kind);
  }
  return found;
}

/** What the parts of the site ask of those who hand it on. */
async function licences() {
  const names = Object.keys(files.digests).filter((path) => /^(bundle\/LICENSES|licenses)\//.test(path));
  const texts = await Promise.all(names.sort().map((name) => files.text(name)));
  return texts.join(`\n\n${"-".repeat(40)}\n\n`);
}

function conform(_, report) {
  return inTurn(() => replay(model, files, (done, total) => report({ done, total })));
}
