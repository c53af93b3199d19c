// SPDX-License-Identifier: Apache-2.0
/** The golden pictures and texts of a bundle, replayed on this very device. */

import { readNpz } from "./arrays.mjs";

const RUNTIME = "onnxruntime";

/**
 * Compare pixels, token ids and outputs with those that torch had when the bundle was exported.
 *
 * The error of a case is the greatest absolute difference over the greatest absolute golden value.
 *
 * @param model of the loader  @param files to read from  @param {(done: number, total: number) => void} advance
 * @returns {Promise<{conforms: boolean, failures: string[], rows: {name, n, error, tolerance}[]}>}
 */
export async function replay(model, files, advance) {
  const { cases, golden } = await readPack(files);
  const programs = programsOf(model);
  const counts = programs.map((program) => countCases(golden, program));
  const total = cases.images.length + cases.texts.length + counts.reduce((sum, count) => sum + count, 0);
  let done = 0;
  const step = () => advance(++done, total);
  const [failures, rows] = [[], []];

  let alike = 0;
  for (const [i, name] of cases.images.entries()) {
    const type = name.endsWith(".jpg") ? "image/jpeg" : "image/png";
    const found = await model.pixels(new Blob([await files.read(`bundle/conformance/${name}`)], { type }));
    const want = golden.get(`encode_image/${i}/pixels`).data;
    const place = found.findIndex((value, at) => value !== want[at]);
    if (place < 0) alike++;
    else failures.push(`pixels of ${name}: number ${place} is ${found[place]}; expected ${want[place]}`);
    step();
  }
  rows.push(exactRow("pixels", cases.images.length, alike));

  alike = 0;
  for (const [i, text] of cases.texts.entries()) {
    const found = model.tokenizer.encode(text);
    const want = [...golden.get(`encode_text/${i}/ids`).data];
    if (found.length === want.length && found.every((id, at) => id === want[at])) alike++;
    else failures.push(`token ids of ${JSON.stringify(text.slice(0, 40))}: ${found}; expected ${want}`);
    step();
  }
  rows.push(exactRow("token ids", cases.texts.length, alike));

  const embeddings = {};
  for (const [i, program] of programs.entries()) {
    const numbers = [...Array(counts[i]).keys()];
    const { row, firsts } = await runCases(model, program, { cases, golden, numbers }, step);
    embeddings[program.name] = firsts;
    rows.push(row);
  }
  rows.push(scoreRow(cases, golden, embeddings));
  failures.push(...failuresOf(rows.slice(2)));
  return { conforms: failures.length === 0, failures, rows };
}

/**
 * Whether the programs compute what they should, by a part of the golden cases, from the first to the last.
 *
 * @param {number} most cases of each program  @returns {Promise<string[]>} what differs; nothing if all is well
 */
export async function checkPrograms(model, files, most) {
  const { cases, golden } = await readPack(files);
  const rows = [];
  for (const program of programsOf(model)) {
    const last = countCases(golden, program) - 1;
    const spread = Array.from({ length: most }, (_, i) => Math.round((i * last) / Math.max(1, most - 1)));
    const numbers = [...new Set(spread)].filter((number) => number >= 0);
    rows.push((await runCases(model, program, { cases, golden, numbers }, () => {})).row);
  }
  return failuresOf(rows);
}

async function readPack(files) {
  const cases = await files.json("bundle/conformance/cases.json");
  return { cases, golden: await readNpz(await files.read("bundle/conformance/golden.npz")) };
}

function programsOf(model) {
  return model.manifest.programs.filter(({ runtime }) => runtime === RUNTIME);
}

/** Run some cases of a program. @returns {Promise<{row: object, firsts: Float32Array[]}>} the first output of each */
async function runCases(model, program, { cases, golden, numbers }, step) {
  const firsts = [];
  let error = 0;
  for (const number of numbers) {
    const outputs = await runCase(model, program, golden, number);
    firsts.push(outputs[program.outputs[0].name].data);
    for (const { name } of program.outputs) {
      const want = golden.get(`${program.name}/${number}/${name}`); // large ones stand there for a few cases only
      if (want) error = Math.max(error, relativeError(outputs[name].data, want.data));
    }
    step();
  }
  const tolerance = cases.tolerances[RUNTIME][program.name];
  return { row: { name: program.name, n: numbers.length, error, tolerance }, firsts };
}

function failuresOf(rows) {
  return rows
    .filter(({ error, tolerance }) => !(error <= tolerance))
    .map(({ name, error, tolerance }) => `${name}: error ${error.toPrecision(3)}; expected at most ${tolerance}`);
}

function exactRow(name, n, alike) {
  return { name, n, error: alike === n ? 0 : Infinity, tolerance: 0 };
}

function countCases(golden, { name, inputs }) {
  let count = 0;
  while (golden.has(`${name}/${count}/${inputs[0].name}`)) count++;
  return count;
}

function runCase(model, program, golden, number) {
  const feeds = {};
  for (const { name, dtype } of program.inputs) {
    const { shape, data } = golden.get(`${program.name}/${number}/${name}`);
    feeds[name] = new model.ort.Tensor(dtype, data, shape);
  }
  return model.sessions[program.name].run(feeds);
}

/** Every golden text with every golden picture, which is what a search ranks by. */
function scoreRow(cases, golden, { encode_image: images, encode_text: texts }) {
  const want = golden.get("scores")?.data;
  if (!want) throw new Error("conformance/golden.npz: holds no scores; expected them; export the bundle again");
  const found = new Float32Array(want.length);
  const count = cases.images.length;
  for (let at = 0; at < found.length; at++) {
    const [text, image] = [texts[Math.floor(at / count)], images[at % count]];
    found[at] = text.reduce((sum, value, i) => sum + value * image[i], 0);
  }
  const tolerance = cases.tolerances[RUNTIME].scores;
  return { name: "scores", n: found.length, error: relativeError(found, want), tolerance };
}

function relativeError(found, want) {
  if (found.length !== want.length) return Infinity;
  let [greatest, difference] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    greatest = Math.max(greatest, Math.abs(want[i]));
    const off = Math.abs(found[i] - want[i]);
    if (!(off <= difference)) difference = off; // NaN is far off too
  }
  return Number.isNaN(difference) ? Infinity : difference / (greatest || 1);
}
