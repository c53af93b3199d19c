// SPDX-License-Identifier: Apache-2.0
/** Embeddings to compare with, as an index keeps them: codes, and what a code of each row is worth. */

const LEVELS = 127; // of a code on either side of zero
const APART = 0.05; // how far, of a query's length, the numbers that do not lead may move two scores apart
const MOST = 0.25; // of a query's numbers that may lead: with more, the whole product is as quick
const SLACK = 1e-5; // for what float32 rounds away

export class Rows {
  /**
   * @param {Int8Array|Float32Array} codes [N, width]
   * @param {Float32Array|null} scales [N], or none where the codes are the numbers themselves
   * @param {number} width
   */
  constructor(codes, scales, width) {
    Object.assign(this, { codes, width, scales: scales ?? new Float32Array(codes.length / width).fill(1) });
    Object.assign(this, boundsOf(codes, this.scales, width));
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
    const wide = Float64Array.from(query); // as the sums are: nothing is converted within the loop
    return Float32Array.from(this.scales, (_, row) => this.#score(row, wide));
  }

  /**
   * The best rows, best first: exactly those of `scores`, of equal ones the earlier first, without a look at every number.
   *
   * Where few numbers make up nearly all of a query, as with concepts, their products come first. What the rest can add to a
   * row is at most the product of both lengths, so only rows that could still be among the best are computed in full.
   *
   * @param {Float32Array} query [width]
   * @param {number} top
   * @returns {{place: number, score: number}[]}
   */
  best(query, top) {
    const isPositive = this.isPositive && query.every((value) => value >= 0); // then the rest only adds
    const leading = top < this.scales.length ? leadingPlaces(query, isPositive ? APART : APART / 2) : null;
    if (!leading) {
      const scores = this.scores(query);
      return bestPlaces(scores, top).map((place) => ({ place, score: scores[place] }));
    }
    const wide = Float64Array.from(query);
    const apart = (isPositive ? 1 : 2) * leading.rest * this.longest + SLACK;
    const rows = this.#candidates(wide, leading.places, apart, top);
    const scores = Float32Array.from(rows, (row) => this.#score(row, wide));
    return bestPlaces(scores, top).map((place) => ({ place: rows[place], score: scores[place] }));
  }

  #score(row, query) {
    const { codes, scales, width } = this;
    const from = row * width;
    const rest = width - (width % 4);
    let [a, b, c, d] = [0, 0, 0, 0]; // four sums that need not wait for each other: twice as fast as one
    for (let place = 0; place < rest; place += 4) {
      a += codes[from + place] * query[place];
      b += codes[from + place + 1] * query[place + 1];
      c += codes[from + place + 2] * query[place + 2];
      d += codes[from + place + 3] * query[place + 3];
    }
    for (let place = rest; place < width; place++) a += codes[from + place] * query[place];
    return (a + b + c + d) * scales[row];
  }

  /** Rows that may be among the `top` best, if what `places` leave out moves two scores at most `apart`. */
  #candidates(query, places, apart, top) {
    const { codes, scales, width } = this;
    const weights = Float64Array.from(places, (place) => query[place]);
    const even = places.length - (places.length % 2);
    const partial = new Float32Array(scales.length);
    for (let row = 0, from = 0; row < partial.length; row++, from += width) {
      let [a, b] = [0, 0];
      for (let i = 0; i < even; i += 2) {
        a += codes[from + places[i]] * weights[i];
        b += codes[from + places[i + 1]] * weights[i + 1];
      }
      if (even < places.length) a += codes[from + places[even]] * weights[even];
      partial[row] = (a + b) * scales[row];
    }
    const least = leastOfBest(partial, top) - apart;
    const kept = [];
    for (let row = 0; row < partial.length; row++) if (partial[row] >= least) kept.push(row);
    return kept;
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
  const least = top < scores.length ? leastOfBest(scores, top) : -Infinity;
  const kept = [];
  scores.forEach((score, place) => score >= least && kept.push(place));
  return kept.sort(byScore).slice(0, top);
}

/** The `top`-th largest. @param {Float32Array} scores of which there are that many, sorted without a comparator: quick */
function leastOfBest(scores, top) {
  return scores.slice().sort()[scores.length - top];
}

/**
 * The largest numbers of a query in the order of their places, and the length of the rest; null where too many are large.
 *
 * @param {Float32Array} query
 * @param {number} share of its length that the rest may have
 * @returns {{places: Uint32Array, rest: number} | null}
 */
function leadingPlaces(query, share) {
  const squares = Float64Array.from(query, (value) => value * value);
  const bySize = Uint32Array.from(squares.keys()).sort((a, b) => squares[b] - squares[a]);
  const allowed = share * share * squares.reduce((sum, square) => sum + square, 0);
  let kept = bySize.length;
  let rest = 0;
  while (kept > 0 && rest + squares[bySize[kept - 1]] <= allowed) rest += squares[bySize[--kept]];
  return kept <= MOST * bySize.length ? { places: bySize.slice(0, kept).sort(), rest: Math.sqrt(rest) } : null;
}

/** Length of the longest row, and whether no number is negative. */
function boundsOf(codes, scales, width) {
  let longest = 0;
  let least = 0;
  for (let row = 0; row < scales.length; row++) {
    let sum = 0;
    for (let place = row * width; place < (row + 1) * width; place++) {
      const code = codes[place];
      sum += code * code;
      if (code < least) least = code;
    }
    longest = Math.max(longest, scales[row] * Math.sqrt(sum));
  }
  return { longest, isPositive: least >= 0 };
}
