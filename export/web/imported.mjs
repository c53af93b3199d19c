// SPDX-License-Identifier: Apache-2.0
/** The tokenizer of an imported model: its own vocabulary, and around it what `tokenizer_rules.json` says. */

import { Tokenizer } from "./tokenizer.mjs";
import { TokenizerJson } from "./tokenizer_json.mjs";

const SPACE = "\u2581"; // how SentencePiece writes the space before a word
const SPACES = /[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/gu; // to Python
const PUNCTUATION = /[!-/:-@[-`{-~]/gu;
const KINDS = { tokenizers: readTokenizerJson, sentencepiece: readSentencePiece };

/**
 * @param {(name: string) => boolean} has whether the bundle has a file
 * @param {(name: string) => Promise<ArrayBuffer>} read a file of the bundle
 * @param {number} contextLength most tokens of a text
 */
export async function openImported(has, read, contextLength) {
  const rules = await readJson(read, "tokenizer_rules.json");
  if (!Object.hasOwn(KINDS, rules.kind)) {
    throw new Error(`tokenizer_rules.json: kind ${rules.kind}; expected one of ${Object.keys(KINDS)}; export the bundle again`);
  }
  return new ImportedTokenizer(rules, await KINDS[rules.kind](has, read, rules), contextLength);
}

/** Text to the ids of the original tokenizer, special tokens included. */
class ImportedTokenizer {
  /** @param {{pieces: function(string): number[], before: number[], after: number[]}} vocabulary */
  constructor(rules, vocabulary, contextLength) {
    Object.assign(this, { rules, vocabulary, contextLength });
  }

  /** Token ids, filled up where the model was trained so. */
  encode(string) {
    return this.row(string).ids;
  }

  /** Token ids and the mask, which is 1 on what the model looks at. */
  row(string) {
    const { pad_id, pads, padding_side, masks, truncation_side } = this.rules;
    const { before, after } = this.vocabulary;
    const pieces = this.vocabulary.pieces(string.replace(/\p{Surrogate}/gu, "?"));
    const room = this.contextLength - before.length - after.length;
    const kept = truncation_side === "right" ? pieces.slice(0, room) : pieces.slice(Math.max(0, pieces.length - room));
    const ids = [...before, ...kept, ...after];
    if (!ids.length) ids.push(pad_id);
    const seen = ids.map(() => 1);
    const padding = new Array(pads ? this.contextLength - ids.length : 0).fill(pad_id);
    const unseen = padding.map(() => (masks ? 0 : 1));
    if (padding_side === "left") return { ids: [...padding, ...ids], mask: [...unseen, ...seen] };
    return { ids: [...ids, ...padding], mask: [...seen, ...unseen] };
  }
}

async function readTokenizerJson(has, read) {
  const classes = has("tokenizer_characters.json") ? await readJson(read, "tokenizer_characters.json") : {};
  return new TokenizerJson(await readJson(read, "tokenizer.json"), classes);
}

/** SigLIP's preparation of a text. Without a word before it the first space would be lost, hence the unknown one. */
async function readSentencePiece(_, read, { end_id: end, lowercases, strips_punctuation: strips }) {
  const model = new Tokenizer(await read("spiece.model"), Infinity);
  const lead = model.unknownPiece;
  const leadLength = model.pieces(lead).length;
  const pieces = (string) => {
    let text = SPACE + string.replaceAll(SPACE, " ");
    if (lowercases) text = text.toLowerCase();
    if (strips) text = text.replace(PUNCTUATION, "");
    return model.pieces(lead + text.replace(SPACES, " ").replace(/ $/u, "")).slice(leadLength);
  };
  return { pieces, before: [], after: end === null ? [] : [end] };
}

async function readJson(read, name) {
  return JSON.parse(new TextDecoder().decode(await read(name)));
}
