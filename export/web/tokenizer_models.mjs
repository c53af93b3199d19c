// SPDX-License-Identifier: Apache-2.0
/**
 * From a word to the ids of its pieces: the models of a `tokenizer.json`, each a function of the word.
 *
 * Source: huggingface/tokenizers 0.23, tokenizers/src/models: bpe, unigram, wordpiece.
 */

import { bestPath } from "./tokenizer.mjs";

const SPAN = 2 ** 24; // more than there are ids, merges, or characters in a text: two such numbers make one

const utf8 = new TextEncoder();

export const MODELS = {
  BPE: (model) => {
    const { vocab, merges, unk_token, end_of_word_suffix: suffix, fuse_unk, byte_fallback, ignore_merges } = model;
    const ids = new Map(Object.entries(vocab));
    const ranks = new Map(); // pair of ids -> rank
    const made = merges.map(([left, right], rank) => {
      ranks.set(ids.get(left) * SPAN + ids.get(right), rank);
      return ids.get(left + right);
    });
    const unknown = unk_token == null ? undefined : ids.get(unk_token);
    return (word) => {
      if (ignore_merges && ids.has(word)) return [ids.get(word)];
      const symbols = [];
      let isUnknown = false; // what came last, and is not among the symbols yet
      const letters = Array.from(word);
      if (suffix && letters.length) letters.push(letters.pop() + suffix);
      for (const letter of letters) {
        const id = ids.get(letter);
        const bytes = id === undefined && byte_fallback ? byteIds(letter, ids) : undefined;
        if (bytes) symbols.push(...bytes);
        else if (id !== undefined) {
          if (isUnknown) symbols.push(unknown);
          isUnknown = false;
          symbols.push(id);
        } else if (unknown !== undefined) {
          if (isUnknown && !fuse_unk) symbols.push(unknown);
          isUnknown = true;
        }
      }
      if (isUnknown) symbols.push(unknown);
      return merged(symbols, ranks, made);
    };
  },
  Unigram: ({ vocab, unk_id: unknown, byte_fallback }) => {
    const ids = new Map(vocab.map(([piece], id) => [piece, id]));
    const scores = vocab.map(([, score]) => score);
    const least = scores.reduce((least, score) => Math.min(least, score), Infinity);
    const longest = vocab.reduce((longest, [piece]) => Math.max(longest, piece.length), 1);
    const lattice = { ids, scores, longest, unknown, unknownScore: least - 10 };
    return (word) => {
      const found = [];
      let rest = ""; // characters that no piece covers, which are one
      for (const [id, surface] of [...bestPath(word, lattice), [null, ""]]) {
        if (id === unknown) rest += surface;
        else {
          if (rest) found.push(...(ids.has(rest) ? [ids.get(rest)] : (byte_fallback && byteIds(rest, ids)) || [unknown]));
          rest = "";
          if (id !== null) found.push(id);
        }
      }
      return found;
    };
  },
  WordPiece: ({ vocab, unk_token, continuing_subword_prefix: prefix, max_input_chars_per_word: most }) => {
    const ids = new Map(Object.entries(vocab));
    const longest = [...ids.keys()].reduce((longest, piece) => Math.max(longest, piece.length), 0);
    return (word) => {
      const found = [];
      if (Array.from(word).length > most) return [ids.get(unk_token)];
      for (let start = 0, end; start < word.length; start = end) {
        const lead = start ? prefix : "";
        end = Math.min(word.length, start + longest);
        while (end > start && !ids.has(lead + word.slice(start, end))) end--;
        if (end === start) return [ids.get(unk_token)];
        found.push(ids.get(lead + word.slice(start, end)));
      }
      return found;
    };
  },
};

/** Merge pairs of symbols, always the one of the lowest rank that is leftmost. */
function merged(symbols, ranks, made) {
  const next = symbols.map((_, place) => place + 1);
  const previous = symbols.map((_, place) => place - 1);
  const waiting = new Heap(); // rank and place, as one number
  const pair = (place) => ranks.get(symbols[place] * SPAN + symbols[next[place]]); // NaN has no rank
  const offer = (place) => {
    const rank = pair(place);
    if (rank !== undefined) waiting.push(rank * SPAN + place);
  };
  symbols.forEach((_, place) => offer(place));
  while (waiting.size) {
    const least = waiting.pop();
    const [rank, place] = [Math.floor(least / SPAN), least % SPAN];
    if (pair(place) !== rank) continue; // one of the two has been merged since
    const gone = next[place];
    symbols[place] = made[rank];
    symbols[gone] = NaN;
    next[place] = next[gone];
    previous[next[gone]] = place;
    offer(previous[place]);
    offer(place);
  }
  return symbols.filter((id) => !Number.isNaN(id));
}

/** Numbers, the smallest first. */
class Heap {
  #items = [];

  get size() {
    return this.#items.length;
  }

  push(item) {
    const items = this.#items;
    let at = items.push(item) - 1;
    for (let above = (at - 1) >> 1; at && items[above] > item; above = (at - 1) >> 1) {
      items[at] = items[above];
      at = above;
    }
    items[at] = item;
  }

  pop() {
    const items = this.#items;
    const [first, item] = [items[0], items.pop()];
    let at = 0;
    for (let below = 1; below < items.length; below = 2 * at + 1) {
      if (items[below + 1] < items[below]) below++;
      if (items[below] >= item) break;
      items[at] = items[below];
      at = below;
    }
    if (items.length) items[at] = item;
    return first;
  }
}

/** Ids of "<0xE2>" and so on; nothing where one has none. */
function byteIds(text, ids) {
  const found = Array.from(utf8.encode(text), (byte) => ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`));
  return found.includes(undefined) ? undefined : found;
}
