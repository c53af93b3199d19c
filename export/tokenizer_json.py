"""The vocabulary of a bundle as a `tokenizer.json`, for readers of Hugging Face's library `tokenizers`.

`tokenizer.model` says what the ids of a text are; this file says the same in the terms of that library. Three things
are another way there:

- SentencePiece applies the longest rule of normalisation that fits. The library looks single characters up, but takes
  the shortest rule for a short cluster of them. So the file marks the places between characters, those within a rule by
  another mark, rewrites single characters alone, and has NFC compose what one rule spans. The few rules that do more
  are steps of their own.
- Names of pieces that stand for no text, such as "<0x41>", are text there. A text that spells one is cut within it.
- A text that holds nothing has no token there, and the unknown token here.

What remains: the library adds scores up in 64 bits, SentencePiece in 32. Where splits of a text are equally likely, as
those of "000" into "0" and "00", the two may choose different ones.
"""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import sentencepiece

from dmedge.data.tokenizer import UNKNOWN_ID, Tokenizer
from dmedge.errors import require
from dmedge.export.charsmap import read_charsmap, read_rules, write_charsmap

TOKENIZER_JSON = "tokenizer.json"

# Characters that Unicode keeps out of any text. Before the text; between two characters; between two that one rule
# spans; in place of a character that one rule spans though it has another rule alone.
START, BETWEEN, WITHIN, KEPT = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_SPACE = "\u2581"  # as pieces write it
Part: TypeAlias = dict[str, Any]  # of the file


def write_tokenizer_json(root: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, object]:
    """Write tokenizer.json below `root` if every text has the same ids by it as by `tokenizer`.

    Returns:
        The number of `texts`, and those that differ, for which there is no file, for the manifest.

    Raises:
        DmedgeError: the package `tokenizers` is not installed.
    """
    content = tokenizer_json(tokenizer)
    differing = differing_texts(content, tokenizer, texts)
    if not differing:
        (root / TOKENIZER_JSON).write_text(content, encoding="utf-8")
    return {"texts": len(texts), "differing": differing}


def differing_texts(content: str, tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts to which a tokenizer.json of this content gives other ids than `tokenizer`."""
    reader = require("tokenizers", "imported").Tokenizer.from_str(content)
    found = (encoding.ids for encoding in reader.encode_batch(list(texts)))
    wanted = tokenizer.encode_all(texts)
    return [text for text, ids, want in zip(texts, found, wanted, strict=True) if ids != want]


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """Content of tokenizer.json, by which a text has the ids that `tokenizer.encode` gives, cut as there."""
    model = tokenizer.model_path.read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(token) for token in range(len(processor))]
    no_text = [token for token in range(len(processor)) if _stands_for_no_text(processor, token)]
    steps = [*_rewriting(read_charsmap(model)), *_spacing(pieces[UNKNOWN_ID])]
    table: Part = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": tokenizer.context_length,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": 1},  # an empty text alone is shorter
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": UNKNOWN_ID,
            "pad_type_id": 0,
            "pad_token": pieces[UNKNOWN_ID],
        },
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": _cutting(pieces[token] for token in no_text),
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _reading()},
        "model": {
            "type": "Unigram",
            "unk_id": UNKNOWN_ID,
            "vocab": [(piece, processor.get_score(token)) for token, piece in enumerate(pieces)],
            "byte_fallback": True,
        },
    }
    return json.dumps(table, ensure_ascii=False, separators=(",", ":")) + "\n"


def _stands_for_no_text(processor: sentencepiece.SentencePieceProcessor, token: int) -> bool:
    return bool(processor.is_byte(token) or processor.is_control(token) or processor.is_unknown(token))


@lru_cache(maxsize=1)  # all vocabularies of dmedge have the same rules
def _rewriting(charsmap: bytes) -> tuple[Part, ...]:
    """The steps that come to what the rules of a vocabulary do."""
    rules = read_rules(charsmap)
    single = {key: result for key, result in rules.items() if len(key) == 1}
    spanning = {key: result for key, result in rules.items() if len(key) > 1}
    later = {character for key in spanning for character in key[1:]}
    kept = sorted(character for character in later if single.get(character, character) not in later)
    compose = require("tokenizers", "imported").normalizers.NFC().normalize_str
    apart = {key: result for key, result in spanning.items() if compose(_singly(key, single, kept)) != result}
    back = {chr(ord(KEPT) + number): character for number, character in enumerate(kept)}
    charsmap = write_charsmap(single | back)
    return (
        {"type": "Prepend", "prepend": START},
        _replace(r"(?!\A)(?=[^ -~])", BETWEEN),  # printable ASCII joins nothing before it
        *(_replace(pattern, result) for result, pattern in _patterns(apart)),
        _replace(_spanned(key for key in spanning if key not in apart), WITHIN),
        *(_replace(WITHIN + character, WITHIN + keeper) for keeper, character in back.items()),
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        _replace(WITHIN, ""),
        {"type": "NFC"},
        _replace(BETWEEN, ""),
    )


def _patterns(rules: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every result, and a pattern of what is rewritten as it."""
    keys: dict[str, list[str]] = defaultdict(list)
    for key, result in sorted(rules.items(), key=lambda rule: (-len(rule[0]), rule)):
        keys[result].append(BETWEEN.join(map(re.escape, key)))
    return ((result, "|".join(found)) for result, found in keys.items())


def _singly(key: str, single: Mapping[str, str], kept: Iterable[str]) -> str:
    """What becomes of characters that one rule spans, before they are composed."""
    later = (character if character in kept else single.get(character, character) for character in key[1:])
    return single.get(key[0], key[0]) + "".join(later)


def _spanned(keys: Iterable[str]) -> str:
    """A pattern of the mark between two characters that one rule spans; what begins a key is a key or one character."""
    nexts: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        nexts[key[:-1]].add(key[-1])
    ends: dict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
    for start, following in nexts.items():
        ends[start[:-1], frozenset(following)].add(start[-1])
    ways: dict[tuple[str, frozenset[str], frozenset[str]], set[str]] = defaultdict(set)
    for (start, after), lasts in ends.items():
        ways[start[1:], frozenset(lasts), after].update(start[:1])
    return "|".join(sorted(_way(*way, firsts) for way, firsts in ways.items()))


def _way(middle: str, lasts: Iterable[str], following: Iterable[str], firsts: Iterable[str]) -> str:
    before = [*([_any(firsts)] if firsts else []), *map(_any, middle), _any(lasts)]
    return f"(?<={BETWEEN.join(before)}){BETWEEN}(?={_any(following)})"


def _any(characters: Iterable[str]) -> str:
    """A pattern of any one of some characters."""
    spans: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    inner = (_literal(first) + (f"-{_literal(last)}" if last > first else "") for first, last in spans)
    return f"[{''.join(inner)}]"


def _literal(code: int) -> str:
    return chr(code) if chr(code).isalnum() or code > 0x7F else rf"\x{{{code:X}}}"


def _spacing(unknown: str) -> Iterator[Part]:
    """One space before every word and none at the end; the unknown token for what holds nothing."""
    yield _replace(rf"\A{START} *\z", unknown)
    yield _replace(rf"\A{START} *", _SPACE)
    yield _replace(r" +\z", "")
    yield _replace(" +", _SPACE)


def _cutting(names: Iterable[str]) -> Part:
    """Cut where a text spells a name, behind its first character; nothing but the unknown token stands at the start."""
    rests = "|".join(sorted(re.escape(name[1:]) for name in names))
    pattern = {"Regex": rf"(?<=[\s\S])<(?=(?:{rests}))"}
    return {"type": "Split", "pattern": pattern, "behavior": "MergedWithPrevious", "invert": False}


def _reading() -> list[Part]:
    """From tokens back to text."""
    return [
        {"type": "ByteFallback"},
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]


def _replace(pattern: str, content: str) -> Part:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
