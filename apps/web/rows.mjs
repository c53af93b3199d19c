// SPDX-License-Identifier: Apache-2.0
/** Embeddings to compare with, as an index keeps them: codes, and what a code of each row is worth. */

const LEVELS = 127; // of a code on either side of zero

export class Rows {
  /**
   * @param {Int8Array|Float32Array} codes [N, width]
   * @param {Float32Array|null} scales [N], or none where the codes are the numbers themselves
   * @param {number} width
   */
  constructor(codes, scales, width) {
    Object.assign(this, { codes, width, scales: scales ?? new Float32Array(codes.length / width).fill(1) });
  }

  /** From embeddings, rounded to int8 as `dmedge index` rounds them. @param {Float32Array[]} embeddings */
  static fromEmbeddings(embeddings, width) {
    const codes = new Int8Array(embeddings.length * width);
    const scales = Float32Array.from(embeddings, (embedding) => {
      const largest = embedding.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      return largest > 0 ? largest / LEVELS : 1;
    });
    embeddings.forEach((embedding, row) => {
      codes.set(Int8Array.from(embedding, (value) => Math.round(value / scales[row])), row * width);
    });
    return new Rows(codes, scales, width);
  }

  /** Dot products of all rows with a query. @param {Float32Array} query [width] @returns {Float32Array} [N] */
  scores(query) {
    const { codes, scales, width } = this;
    const found = new Float32Array(scales.length);
    const rest = width - (width % 4);
    for (let row = 0; row < found.length; row++) {
      const from = row * width;
      let [a, b, c, d] = [0, 0, 0, 0]; // four sums that need not wait for each other: twice as fast as one
      for (let place = 0; place < rest; place += 4) {
        a += codes[from + place] * query[place];
        b += codes[from + place + 1] * query[place + 1];
        c += codes[from + place + 2] * query[place + 2];
        d += codes[from + place + 3] * query[place + 3];
      }
      for (let place = rest; place < width; place++) a += codes[from + place] * query[place];
      found[row] = (a + b + c + d) * scales[row];
    }
    return found;
  }

  /** One row. @returns {Float32Array} [width] */
  row(number) {
    const { codes, scales, width } = this;
    return Float32Array.from(codes.subarray(number * width, (number + 1) * width), (code) => code * scales[number]);
  }
}

/** The numbers of an embedding that an index keeps, of unit length again if they are the leading ones. */
export function selectNumbers(embedding, dims, selection) {
  if (!dims) return embedding;
  const kept = Float32Array.from(dims, (place) => embedding[place]);
  if (selection !== "leading") return kept;
  const length = Math.hypot(...kept) || 1;
  return kept.map((value) => value / length);
}

/** Places of the `top` largest scores, best first; of equal ones the earlier first. @param {Float32Array} scores */
export function bestPlaces(scores, top) {
  if (top <= 0) return [];
  const byScore = (a, b) => scores[b] - scores[a] || a - b;
  const least = top < scores.length ? scores.slice().sort()[scores.length - top] : -Infinity; // no comparator: quick
  const kept = [];
  scores.forEach((score, place) => score >= least && kept.push(place));
  return kept.sort(byScore).slice(0, top);
}
