// SPDX-License-Identifier: Apache-2.0
/**
 * Text to token ids by a `tokenizer.json`, exactly as Hugging Face's library `tokenizers` makes them.
 *
 * It has the components that encoders of CLIP, SigLIP 2 and the BERT and RoBERTa families use; a bundle with any other is
 * refused when it is exported. Browsers differ from the library, and from each other, in which characters are letters,
 * numbers, marks and so on, so these come from `tokenizer_characters.json`.
 *
 * Source: huggingface/tokenizers 0.23, tokenizers/src: added_vocabulary.rs, normalizers, pre_tokenizers, models, processors.
 */

import { rules } from "./tokenizer.mjs";
import { MODELS } from "./tokenizer_models.mjs";

const SHORT = 6; // bytes of a cluster that is not looked up as a whole
const MOST = 4096; // clusters that are remembered
const IDEOGRAPHS = // as the library lists them, a slip in one range included
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
const SPACES = /\p{White_Space}/gu;
const WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`; // of GPT-2
const LETTERS = byteLetters();

const utf8 = new TextEncoder();

/** A vocabulary and the steps that lead to it. */
export class TokenizerJson {
  /**
   * @param {object} file content of tokenizer.json
   * @param {object} characters of tokenizer_characters.json: class -> first and last code point of every range
   */
  constructor(file, characters = {}) {
    const classes = Object.fromEntries(Object.entries(characters).map(([name, ends]) => [name, ranges(ends)]));
    this.normalize = make(NORMALIZERS, file.normalizer, classes);
    this.cut = make(PRE_TOKENIZERS, file.pre_tokenizer, classes) ?? ((text) => [text]);
    this.look = make(MODELS, file.model);
    [this.before, this.after] = make(PROCESSORS, file.post_processor) ?? [[], []]; // what stands around every text
    const [late, early] = [true, false].map((flag) => file.added_tokens.filter(({ normalized }) => normalized === flag));
    this.isolate = isolator(early.map((token) => [token.content, token]));
    this.isolateLate = isolator(late.map((token) => [this.normalize?.(token.content) ?? token.content, token]));
  }

  /** Token ids without those around a text; maybe none. */
  pieces(text) {
    const ids = [];
    for (const [raw, special] of this.isolate(text)) {
      if (special !== undefined) ids.push(special);
      else for (const id of this.#normalPieces(this.normalize?.(raw) ?? raw)) ids.push(id);
    }
    return ids;
  }

  *#normalPieces(text) {
    for (const [normal, special] of this.isolateLate(text)) {
      if (special !== undefined) yield special;
      else if (normal) for (const word of this.cut(normal)) yield* this.look(word);
    }
  }
}

function make(table, part, classes) {
  if (!part) return undefined;
  if (!Object.hasOwn(table, part.type)) throw new Error(`tokenizer.json: ${part.type}; expected one of ${Object.keys(table)}`);
  return table[part.type](part, classes);
}

/** Finds tokens that are written out in a text: the leftmost, of these the longest. Gives [text, id or undefined]. */
function isolator(tokens) {
  const known = new Map(tokens.filter(([content]) => content));
  if (!known.size) return (text) => [[text]];
  const longest = [...known.keys()].sort((a, b) => b.length - a.length);
  const anyToken = new RegExp(longest.map(escaped).join("|"), "gu");
  return (text) => {
    const found = [];
    let done = 0;
    for (const { 0: content, index } of matches(text, anyToken)) {
      const { id, lstrip, rstrip } = known.get(content);
      const before = text.slice(Math.min(done, index), index);
      const start = lstrip ? before.replace(/\p{White_Space}+$/u, "") : before;
      if (start) found.push([start]);
      found.push([content, id]);
      done = index + content.length;
      if (rstrip) done += /^\p{White_Space}*/u.exec(text.slice(done))[0].length;
    }
    if (done < text.length) found.push([text.slice(done)]);
    return found;
  };
}

const NORMALIZERS = {
  Sequence: ({ normalizers }, classes) => {
    const steps = normalizers.map((part) => make(NORMALIZERS, part, classes));
    return (text) => steps.reduce((result, step) => step(result), text);
  },
  NFC: () => (text) => text.normalize("NFC"),
  Lowercase: () => lowercase,
  Prepend: ({ prepend }) => (text) => text && prepend + text,
  Strip: ({ strip_left: left, strip_right: right }) => (text) => {
    const start = left ? text.replace(/^\p{White_Space}+/u, "") : text;
    return right ? start.replace(/\p{White_Space}+$/u, "") : start;
  },
  Replace: ({ pattern, content }, classes) => {
    const places = regex(pattern, classes);
    return (text) => text.replace(places, () => content);
  },
  Precompiled: ({ precompiled_charsmap: base64 }) => {
    const rule = rules(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)), { isShortest: true });
    const clusters = new Intl.Segmenter(undefined, { granularity: "grapheme" });
    const rewrite = (cluster) => {
      const bytes = utf8.encode(cluster);
      const whole = bytes.length < SHORT ? rule(bytes, 0) : null;
      return whole?.result ?? Array.from(cluster, (one) => rule(utf8.encode(one), 0)?.result ?? one).join("");
    };
    const known = new Map(); // clusters that were met; a text has few different ones
    return (text) => {
      let result = "";
      for (const { segment } of clusters.segment(text)) {
        let found = known.get(segment);
        if (found === undefined) {
          if (known.size === MOST) known.clear();
          known.set(segment, (found = rewrite(segment)));
        }
        result += found;
      }
      return result;
    };
  },
  BertNormalizer: ({ clean_text, handle_chinese_chars, strip_accents, lowercase: lowers }, classes) => {
    const [control, marks] = [classes.control, classes.mark].map((members) => new RegExp(`[${members}]`, "gu"));
    return (text) => {
      let result = clean_text ? text.replace(control, "").replace(SPACES, " ") : text;
      if (handle_chinese_chars) result = result.replace(IDEOGRAPHS, " $& ");
      if (strip_accents ?? lowers) result = result.normalize("NFD").replace(marks, "");
      return lowers ? lowercase(result) : result;
    };
  },
};

/** Letter by letter: a sigma at the end of a word is like any other. */
function lowercase(text) {
  return text.replaceAll("Σ", "σ").toLowerCase();
}

const PRE_TOKENIZERS = {
  Sequence: ({ pretokenizers }, classes) => {
    const steps = pretokenizers.map((part) => make(PRE_TOKENIZERS, part, classes));
    return (text) => steps.reduce((words, step) => words.flatMap(step), [text]);
  },
  Split: ({ pattern, behavior, invert }, classes) => {
    const places = regex(pattern, classes);
    return (text) => split(text, places, behavior, invert);
  },
  WhitespaceSplit: () => (text) => split(text, SPACES, "Removed"),
  BertPreTokenizer: (_, { punctuation }) => {
    const marks = new RegExp(`[${punctuation}]`, "gu");
    return (text) => split(text, SPACES, "Removed").flatMap((word) => split(word, marks, "Isolated"));
  },
  Metaspace: ({ replacement, prepend_scheme: scheme, split: splits }) => {
    const places = new RegExp(escaped(replacement), "gu");
    return (text) => {
      const spaced = text.replaceAll(" ", replacement);
      const whole = scheme === "always" && !spaced.startsWith(replacement) ? replacement + spaced : spaced;
      return splits ? split(whole, places, "MergedWithNext") : [whole];
    };
  },
  ByteLevel: ({ add_prefix_space, use_regex }, classes) => {
    const places = use_regex && regex({ Regex: WORDS }, classes);
    return (text) => {
      const spaced = add_prefix_space && !text.startsWith(" ") ? ` ${text}` : text;
      const words = use_regex ? split(spaced, places, "Isolated") : [spaced];
      return words.map((word) => Array.from(utf8.encode(word), (byte) => LETTERS[byte]).join(""));
    };
  },
};

const JOINS = { // whether two parts that follow each other are one, by whether each is a match
  Isolated: () => false,
  MergedWithPrevious: (first, second) => !first && second,
  MergedWithNext: (first, second) => first && !second,
  Contiguous: (first, second) => first === second,
};

/** Cut a text at matches; with `invert` what lies between them counts as one. No part is empty. */
function split(text, places, behavior, invert = false) {
  const parts = [];
  const add = (part, isMatch) => {
    const last = parts.at(-1);
    if (!part || (isMatch && behavior === "Removed")) return;
    if (last && JOINS[behavior]?.(last.isMatch, isMatch)) parts[parts.length - 1] = { part: last.part + part, isMatch };
    else parts.push({ part, isMatch });
  };
  let done = 0;
  for (const { 0: match, index } of matches(text, places)) {
    add(text.slice(done, index), invert);
    add(match, !invert);
    done = index + match.length;
  }
  add(text.slice(done), invert);
  return parts.map(({ part }) => part);
}

const PROCESSORS = { // ids before and after a text
  TemplateProcessing: ({ single, special_tokens: tokens }) => {
    const text = single.findIndex((part) => part.Sequence);
    return [single.slice(0, text), single.slice(text + 1)].map((side) =>
      side.flatMap(({ SpecialToken }) => tokens[SpecialToken.id].ids));
  },
  RobertaProcessing: ({ cls, sep }) => [[cls[1]], [sep[1]]],
  BertProcessing: ({ cls, sep }) => [[cls[1]], [sep[1]]],
  ByteLevel: () => [[], []], // moves offsets alone
  Sequence: ({ processors }) => {
    const sides = processors.map((part) => make(PROCESSORS, part)); // no more than one adds any
    return [0, 1].map((side) => sides.flatMap((ids) => ids[side]));
  },
};

/** As `text.matchAll(places)`, which would copy the pattern each time; that takes ten times as long. */
function* matches(text, places) {
  places.lastIndex = 0;
  for (let found; (found = places.exec(text)); ) yield found;
}

/** A pattern of the file, as JavaScript writes it. */
function regex({ String: text, Regex: source }, classes) {
  if (text !== undefined) return new RegExp(escaped(text), "gu");
  let isClass = false;
  const found = source.replace(/\\p\{(\w)\}|\\.|[[\]]/gu, (token, name) => {
    if (token === "[" || token === "]") isClass = token === "[";
    if (token === "\\s") return "\\p{White_Space}"; // JavaScript's own \s differs by U+0085 and U+FEFF
    if (token === "\\S") return "\\P{White_Space}";
    if (!name) return token;
    return isClass ? classes[name] : `[${classes[name]}]`;
  });
  return new RegExp(found, "gu");
}

function escaped(text) {
  return text.replace(/[\\^$.*+?()[\]{}|/]/gu, "\\$&");
}

/** Members of a class of characters, as they stand between the brackets of a pattern. */
function ranges(ends) {
  const hex = ends.map((code) => `\\u{${code.toString(16)}}`);
  return hex.map((code, place) => (place % 2 ? `-${code}` : code)).join("");
}

/** The letters that stand for bytes: printable ones for themselves, then those from U+0100 on. */
function byteLetters() {
  const isPlain = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let others = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPlain(byte) ? byte : others++));
}
