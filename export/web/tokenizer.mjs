// SPDX-License-Identifier: Apache-2.0
/**
 * Text to token ids, exactly as SentencePiece makes them, from the same file `tokenizer.model`.
 *
 * Source: sentencepiece, src/normalizer.cc, src/unigram_model.cc (EncodeOptimized), sentencepiece_model.proto.
 */

const SPACE = "\u2581"; // how a space is written in pieces
const NORMAL = 1, UNKNOWN = 2, USER_DEFINED = 4, BYTE = 6; // types of a piece
const UNIGRAM = 1; // type of a model
const UNKNOWN_PENALTY = 10; // below the least likely piece

const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { ignoreBOM: true });

/** A unigram vocabulary, with byte fallback or without. */
export class Tokenizer {
  /** @param {ArrayBuffer} content of tokenizer.model  @param {number} contextLength most tokens of a text */
  constructor(content, contextLength) {
    const { pieces, normalizer } = readModel(content);
    const normal = pieces.filter(({ type }) => type === NORMAL).map(({ score }) => score);
    const [least, most] = [Math.min, Math.max].map((pick) => normal.reduce((found, score) => pick(found, score)));
    const asWritten = [];
    this.contextLength = contextLength;
    this.ids = new Map(); // piece -> id
    this.scores = pieces.map((piece) => piece.score);
    this.bytes = []; // ids of bytes, in a vocabulary that falls back on them
    this.longest = 1; // piece, in UTF-16 units
    this.sum = Math.fround;
    this.unknownScore = Math.fround(least - UNKNOWN_PENALTY);
    pieces.forEach(({ piece, type }, id) => {
      if (type === UNKNOWN) this.unknown = id;
      if (type === BYTE) this.bytes[parseInt(piece.slice(3, 5), 16)] = id; // "<0xE2>"
      if (type === USER_DEFINED) {
        asWritten.push(utf8.encode(piece));
        this.scores[id] = Math.fround(asWritten.at(-1).length * most) - 0.1;
      }
      if (type !== NORMAL && type !== USER_DEFINED) return;
      this.ids.set(piece, id);
      this.longest = Math.max(this.longest, piece.length);
    });
    this.unknownPiece = pieces[this.unknown].piece;
    this.normalize = normalization(normalizer, asWritten.sort((a, b) => b.length - a.length));
  }

  /** Token ids; text that holds nothing becomes the unknown token. */
  encode(string) {
    const ids = this.pieces(string.replace(/\p{Surrogate}/gu, "?"));
    return ids.length ? ids.slice(0, this.contextLength) : [this.unknown];
  }

  /** Token ids and the mask, which is 1 on what the model looks at. */
  row(string) {
    const ids = this.encode(string);
    return { ids, mask: ids.map(() => 1) };
  }

  /** Token ids of a text that is not cut; maybe none. */
  pieces(string) {
    const ids = [];
    let isUnknown = false; // characters that no piece covers are one, unless they have bytes
    for (const [id, surface] of bestPath(this.normalize(string), this)) {
      if (id === this.unknown && this.bytes.length) for (const byte of utf8.encode(surface)) ids.push(this.bytes[byte]);
      else if (id !== this.unknown || !isUnknown) ids.push(id);
      isUnknown = id === this.unknown;
    }
    return ids;
  }
}

/** The most likely split into pieces (Viterbi; `sum` rounds scores), as [id, what it covers]. */
export function bestPath(normal, { ids, scores, longest, unknown, unknownScore, sum = (score) => score }) {
  const best = new Array(normal.length + 1).fill(null); // what ends here: {score, start, id}
  best[0] = { score: 0, start: -1, id: -1 };
  const offer = (end, score, start, id) => {
    if (best[end] === null || score > best[end].score) best[end] = { score, start, id };
  };
  for (let start = 0; start < normal.length; ) {
    const { score } = best[start];
    const next = start + (normal.codePointAt(start) > 0xffff ? 2 : 1);
    let hasSingle = false;
    for (let end = next; end <= Math.min(normal.length, start + longest); end++) {
      const id = ids.get(normal.slice(start, end));
      if (id === undefined) continue;
      offer(end, sum(scores[id] + score), start, id);
      hasSingle ||= end === next;
    }
    if (!hasSingle) offer(next, sum(unknownScore + score), start, unknown);
    start = next;
  }
  const path = [];
  for (let end = normal.length; end > 0; end = best[end].start) {
    path.push([best[end].id, normal.slice(best[end].start, end)]);
  }
  return path.reverse();
}

/** The function that rewrites text by the rules of the vocabulary, but for `asWritten`, and its spaces as U+2581. */
function normalization({ charsmap, addDummyPrefix, removeExtraWhitespaces }, asWritten) {
  const longestRule = rules(charsmap);
  return (string) => {
    const input = utf8.encode(string);
    let at = 0;
    const prefix = () => { // the next rule that applies, or else the next character
      const whole = asWritten.find((bytes) => bytes.every((byte, place) => input[at + place] === byte));
      if (whole) return { size: whole.length, result: text.decode(whole) };
      return longestRule(input, at) ?? character(input, at);
    };
    if (removeExtraWhitespaces) {
      while (at < input.length) {
        const { size, result } = prefix();
        if (result !== " ") break;
        at += size;
      }
    }
    if (at === input.length) return "";
    let normal = addDummyPrefix ? SPACE : "";
    let isAfterSpace = removeExtraWhitespaces;
    while (at < input.length) {
      let { size, result } = prefix();
      if (isAfterSpace) result = result.replace(/^ +/, "");
      if (result) {
        normal += result.replaceAll(" ", SPACE);
        isAfterSpace = removeExtraWhitespaces && result.endsWith(" ");
      }
      at += size;
    }
    while (removeExtraWhitespaces && normal.endsWith(SPACE)) normal = normal.slice(0, -1);
    return normal;
  };
}

/**
 * Finds the rule that applies at a place: the longest, or the shortest, in a double-array trie (darts-clone), followed by
 * the results, each ending in a zero.
 */
export function rules(charsmap, { isShortest = false } = {}) {
  if (!charsmap?.length) return () => null;
  const size = new DataView(charsmap.buffer, charsmap.byteOffset).getUint32(0, true);
  const units = new Uint32Array(charsmap.slice(4, 4 + size).buffer);
  const results = charsmap.subarray(4 + size);
  const decoded = new Map(); // results that were met
  const below = (place) => place ^ ((units[place] >>> 10) << ((units[place] & 0x200) >>> 6));
  return (input, start) => {
    let found = null;
    let place = below(0);
    for (let at = start; at < input.length && !(found && isShortest); at++) {
      place ^= input[at];
      if ((units[place] & 0x800000ff) !== input[at]) break; // no such branch
      const isEnd = (units[place] >>> 8) & 1;
      place = below(place);
      if (isEnd) found = { size: at + 1 - start, result: units[place] & 0x7fffffff };
    }
    if (!found) return null;
    const from = found.result;
    if (!decoded.has(from)) decoded.set(from, text.decode(results.subarray(from, results.indexOf(0, from))));
    return { size: found.size, result: decoded.get(from) };
  };
}

/** One character of valid UTF-8; a TextDecoder would take most of the time of `encode`. */
function character(input, at) {
  const first = input[at];
  const size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  let code = size === 1 ? first : first & (0xff >> (size + 1));
  for (let i = 1; i < size; i++) code = (code << 6) | (input[at + i] & 63);
  return { size, result: String.fromCodePoint(code) };
}

/** What is needed of a sentencepiece.ModelProto. */
function readModel(content) {
  const model = {
    pieces: [],
    normalizer: { charsmap: null, addDummyPrefix: true, removeExtraWhitespaces: true },
    type: UNIGRAM,
  };
  for (const [field, value] of fields(new Uint8Array(content))) {
    if (field === 1) {
      const piece = { piece: "", score: 0, type: NORMAL };
      for (const [inner, found] of fields(value)) {
        if (inner === 1) piece.piece = text.decode(found);
        if (inner === 2) piece.score = new DataView(found.buffer, found.byteOffset).getFloat32(0, true);
        if (inner === 3) piece.type = found;
      }
      model.pieces.push(piece);
    } else if (field === 2) {
      for (const [inner, found] of fields(value)) if (inner === 3) model.type = found;
    } else if (field === 3) {
      for (const [inner, found] of fields(value)) {
        if (inner === 2) model.normalizer.charsmap = found;
        if (inner === 3) model.normalizer.addDummyPrefix = Boolean(found);
        if (inner === 4) model.normalizer.removeExtraWhitespaces = Boolean(found);
      }
    }
  }
  if (model.type !== UNIGRAM) throw new Error(`tokenizer.model: model type ${model.type}; expected ${UNIGRAM}, unigram`);
  return model;
}

/** Fields of a protocol buffer as [number, value]: a number, or the bytes of anything else. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const wire = key & 7;
    if (wire === 0) {
      yield [key >>> 3, varint()];
    } else {
      const size = wire === 2 ? varint() : wire === 5 ? 4 : 8;
      yield [key >>> 3, bytes.subarray(at, at + size)];
      at += size;
    }
  }
}
