"""Imported tokenizers in browsers: what the loader in `web/` reads of them, and what it needs beside their files."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from dmedge.data.hf_tokenizer import RULES, VOCABULARIES
from dmedge.errors import ExportError, require
from dmedge.protobuf import fields

CHARACTERS = "tokenizer_characters.json"
MODULES = ("dmedge.mjs", "pixels.mjs", "tokenizer.mjs")
IMPORTED_MODULES = ("imported.mjs", "tokenizer_json.mjs", "tokenizer_models.mjs")  # of bundles with such a tokenizer
PLANES = (0, 1, 2, 3, 14, 15, 16)  # of Unicode, in which there are characters
LONE = range(0xD800, 0xE000)  # halves of a character
Part: TypeAlias = Mapping[str, Any]

# Of tokenizer.json: component -> type -> its settings that `tokenizer_json.mjs` and `tokenizer_models.mjs` know.
KNOWN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "normalizer": {
        "Sequence": ("normalizers",),
        "NFC": (),
        "Lowercase": (),
        "Prepend": ("prepend",),
        "Strip": ("strip_left", "strip_right"),
        "Replace": ("pattern", "content"),
        "Precompiled": ("precompiled_charsmap",),
        "BertNormalizer": ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"),
    },
    "pre_tokenizer": {
        "Sequence": ("pretokenizers",),
        "Split": ("pattern", "behavior", "invert"),
        "WhitespaceSplit": (),
        "BertPreTokenizer": (),
        "Metaspace": ("replacement", "prepend_scheme", "split"),
        "ByteLevel": ("add_prefix_space", "trim_offsets", "use_regex"),
    },
    "model": {
        "BPE": (
            *("vocab", "merges", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "dropout"),
            *("fuse_unk", "byte_fallback", "ignore_merges"),
        ),
        "Unigram": ("vocab", "unk_id", "byte_fallback"),
        "WordPiece": ("vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word"),
    },
    "post_processor": {
        "Sequence": ("processors",),
        "TemplateProcessing": ("single", "pair", "special_tokens"),
        "RobertaProcessing": ("sep", "cls", "trim_offsets", "add_prefix_space"),
        "BertProcessing": ("sep", "cls"),
        "ByteLevel": ("add_prefix_space", "trim_offsets", "use_regex"),
    },
}
# What is written alike in Oniguruma's patterns and in JavaScript's, and the classes that the loader brings itself.
_CLASS = r"\[\^?(?:\\p\{[LN]\}|\\[srnt\\\[\]^-]|[^\\\[\]^&])+\]"
_PATTERN = re.compile(
    rf"(?:(?:{_CLASS}|\\p\{{[LN]\}}|\\[sSrnt\\^$.*+?()\[\]{{}}|/]|[^\\^$.*+?()\[\]{{}}|])"
    r"(?:[*+?]\??|\{\d+(?:,\d*)?\})?(?![*+?{])|[|)]|\((?:\?[:=!])?)+"
)
_TRAINER, _NORMALIZER = 2, 3  # fields of sentencepiece's ModelProto
_SETTINGS = {  # field, field within -> name, what it has to be, what it is where it is not written
    (_TRAINER, 3): ("model_type", 1, 1),  # unigram
    (_TRAINER, 24): ("treat_whitespace_as_suffix", 0, 0),
    (_NORMALIZER, 5): ("escape_whitespaces", 1, 1),
}


def loader_modules(tokenizer: Sequence[str]) -> tuple[str, ...]:
    """Names of the modules that load a bundle in a browser, from the names of its tokenizer's files."""
    return (*MODULES, *(IMPORTED_MODULES if RULES in tokenizer else ()))


def check_web_tokenizer(files: Mapping[str, bytes], root: Path) -> None:
    """Refuse an imported tokenizer that the loader for browsers does not read.

    Args:
        files: content of tokenizer_rules.json and of the vocabulary.
        root: of the checkpoint that they are from, for the message.

    Raises:
        ExportError: what it has is not known there; the message names it.
    """
    kind = json.loads(files[RULES])["kind"]
    name = VOCABULARIES[kind]
    odd = next(
        iter(_odd_settings(files[name]) if kind == "sentencepiece" else _odd_parts(json.loads(files[name]))), None
    )
    if odd is not None:
        raise ExportError(
            f"{root / name}: {odd}, which the loader for browsers does not read; expected components that it has "
            f"({', '.join(_names())}), a variant that reads no text (image-only or prompts), or another target"
        )


def characters_json(files: Mapping[str, bytes]) -> bytes | None:
    """Content of tokenizer_characters.json: class -> first and last code point of every range, one after the other.

    The classes are those of the package `tokenizers` that is installed, which differ from a browser's.

    Returns:
        None for a vocabulary that needs no such classes.
    """
    if VOCABULARIES["tokenizers"] not in files:
        return None
    table = json.loads(files[VOCABULARIES["tokenizers"]])
    parts = [*_walk(table["normalizer"]), *_walk(table["pre_tokenizer"])]
    types = {part["type"] for part in parts}
    names = {"control", "mark"} if "BertNormalizer" in types else set()
    names |= {"punctuation"} if "BertPreTokenizer" in types else set()
    names |= {"L", "N"} if "ByteLevel" in types or any(r"\p{" in pattern for pattern in _patterns(parts)) else set()
    ranges = {name: _ranges(character_class(name)) for name in sorted(names)}
    return (json.dumps(ranges, separators=(",", ":")) + "\n").encode() if ranges else None


@lru_cache
def character_class(name: str) -> frozenset[str]:
    """What the package `tokenizers` counts as letter "L", number "N", "control", "mark" or "punctuation"."""
    library = require("tokenizers", "imported")
    every = "".join(chr(code) for plane in PLANES for code in range(plane << 16, (plane + 1) << 16) if code not in LONE)
    if name in ("L", "N"):
        rest = library.normalizers.Replace(library.Regex(rf"\p{{{name}}}"), "").normalize_str(every)
        return frozenset(every) - frozenset(rest)
    if name == "punctuation":  # stands alone, even between two letters
        words = library.pre_tokenizers.BertPreTokenizer().pre_tokenize_str("a" + "a".join(every) + "a")
        return frozenset(word for word, _ in words if len(word) == 1) - {"a"}
    steps = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    step = "clean_text" if name == "control" else "strip_accents"
    normalize = library.normalizers.BertNormalizer(**{**steps, step: True}).normalize_str
    return frozenset(one for one in frozenset(every) - frozenset(normalize(every)) if not normalize(one))


def _ranges(characters: Iterable[str]) -> list[int]:
    ends: list[int] = []
    for code in sorted(map(ord, characters)):
        if ends and code == ends[-1] + 1:
            ends[-1] = code
        else:
            ends += [code, code]
    return ends


def _odd_parts(table: Part) -> Iterator[str]:
    """What the loader does not know of a tokenizer.json, in words."""
    for component, types in KNOWN.items():
        for part in _walk(table[component]):
            kind = part["type"]
            if kind not in types:
                yield f"{component} {kind}"
            elif strange := sorted(set(part) - {"type", *types[kind]}):
                yield f"{component} {kind} with {', '.join(strange)}"
            else:
                yield from (f"{component} {kind} with {setting}" for setting in _odd_values(part))
    yield from (
        f"added token {token['content']} with single_word" for token in table["added_tokens"] if token["single_word"]
    )


def _odd_values(part: Part) -> Iterator[str]:
    yield from (f"pattern {pattern}" for pattern in _patterns([part]) if not _is_plain(pattern))
    if part["type"] == "Metaspace" and part["prepend_scheme"] == "first":
        yield "prepend_scheme first"
    if part["type"] == "BPE":
        if any(isinstance(merge, str) for merge in part["merges"]):
            yield "merges in one string"
        yield from (name for name in ("dropout", "continuing_subword_prefix") if part[name])
    if part["type"] == "Unigram" and part["unk_id"] is None:
        yield "no unknown token"
    if part["type"] == "TemplateProcessing" and [p["Sequence"]["id"] for p in part["single"] if "Sequence" in p] != [
        "A"
    ]:
        yield "a text that does not stand there once"
    if "processors" in part and sum(inner["type"] != "ByteLevel" for inner in part["processors"]) > 1:
        yield "several that add tokens"


def _is_plain(pattern: str) -> bool:
    """Whether a pattern means in JavaScript what it means in the library, and never matches nothing at all."""
    if not _PATTERN.fullmatch(pattern):
        return False
    library = require("tokenizers", "imported")
    replace = library.normalizers.Replace(library.Regex(pattern), "\0").normalize_str
    return all(replace(one) in (one, "\0") for one in map(chr, range(9, 128)))


def _patterns(parts: Iterable[Part]) -> list[str]:
    return [part["pattern"]["Regex"] for part in parts if "Regex" in part.get("pattern", {})]


def _walk(part: Part | None) -> Iterator[Part]:
    """A component, and those that a sequence holds."""
    if part is not None:
        yield part
        for name in ("normalizers", "pretokenizers", "processors"):
            for inner in part.get(name, ()):
                yield from _walk(inner)


def _odd_settings(model: bytes) -> Iterator[str]:
    """What the loader does not know of a SentencePiece model, in words."""
    found = {
        (field, inner): number
        for field, content in fields(memoryview(model))
        if field in (_TRAINER, _NORMALIZER) and not isinstance(content, int)
        for inner, number in fields(content)
    }
    for place, (name, wanted, default) in _SETTINGS.items():
        if found.get(place, default) != wanted:
            yield f"{name} {found[place]}"


def _names() -> list[str]:
    return sorted({kind for types in KNOWN.values() for kind in types})
