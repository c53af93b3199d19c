"""A tokenizer.json with fewer pieces: BPE, Unigram or WordPiece, and every id in it renumbered."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from dmedge.compress.merges import close_over_merges, merges_within
from dmedge.errors import ConfigError, DataError, require

Table: TypeAlias = dict[str, Any]  # a part of the file
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # pieces that a model with byte fallback splits others into


def close_pieces(content: bytes, wanted: Iterable[int]) -> set[int]:
    """Token ids to keep so that text made of `wanted` pieces is segmented as before.

    Beside them: added tokens, the unknown token, those put around a text, bytes, and what the kind of
    model needs to get to the pieces, or to fall back on smaller ones.

    Raises:
        ConfigError: the vocabulary is of a kind that cannot be trimmed.
    """
    table: Table = json.loads(content)
    kind, ids = _kind(table["model"]), _ids(table)
    fixed = {ids[added["content"]] for added in table["added_tokens"]} | _processor_ids(table["post_processor"])
    fixed |= {ids[piece] for piece in (*_unknown(table["model"]), *_bytes(table)) if piece in ids}
    chosen = set(wanted)
    plain = chosen - fixed
    pieces = {piece for piece, token in ids.items() if token in plain}
    return chosen | fixed | {ids[piece] for piece in kind.close(table["model"], pieces) if piece in ids}


def keep_pieces(content: bytes, keep: Sequence[int]) -> bytes:
    """The same tokenizer with the token ids `keep` only, numbered in their order.

    Args:
        content: of tokenizer.json, as the library writes it.
        keep: rising, those that `close_pieces` adds among them; ids that no piece has only take up a number.

    Raises:
        ConfigError: the vocabulary is of a kind that cannot be trimmed.
        DataError: its ids have gaps, so that the library would number it otherwise.
    """
    table: Table = json.loads(content)
    place = {token: number for number, token in enumerate(keep)}
    kind, wanted = (
        _kind(table["model"]),
        {place[token]: piece for piece, token in _ids(table).items() if token in place},
    )
    kind.shorten_(table["model"], place)
    for added in table["added_tokens"]:
        added["id"] = place[added["id"]]
    _renumber_(table["post_processor"], place)
    made = require("tokenizers", "train").Tokenizer.from_str(json.dumps(table))
    for number in range(len(keep)):
        if made.id_to_token(number) != wanted.get(number):
            raise DataError(
                f"tokenizer.json: with fewer pieces, id {number} is {made.id_to_token(number)!r}; expected "
                f"{wanted.get(number)!r}, as in one whose ids have no gaps; leave languages out"
            )
    return bytes(made.to_str().encode())


def _ids(table: Table) -> dict[str, int]:
    """Every piece, added tokens among them, and its id."""
    vocab, added = table["model"]["vocab"], {added["content"]: added["id"] for added in table["added_tokens"]}
    rows = vocab.items() if isinstance(vocab, dict) else ((piece, token) for token, (piece, _) in enumerate(vocab))
    return added | dict(rows)


def _unknown(model: Table) -> tuple[str, ...]:
    if model["type"] == "Unigram":
        return () if model["unk_id"] is None else (model["vocab"][model["unk_id"]][0],)
    return () if model["unk_token"] is None else (model["unk_token"],)


def _bytes(table: Table) -> Iterable[str]:
    """The pieces that any text can be written in, if the model has such."""
    model = table["model"]
    if model.get("byte_fallback"):
        yield from BYTES
    if '"ByteLevel"' in json.dumps([table["normalizer"], table["pre_tokenizer"]]):
        for symbol in require("tokenizers", "train").pre_tokenizers.ByteLevel.alphabet():
            yield from (symbol, symbol + (model.get("end_of_word_suffix") or ""))


def _processor_ids(processor: Table | None) -> set[int]:
    """Ids of the tokens that are put around a text."""
    found: set[int] = set()
    for part in _processors(processor):
        found |= {part[end][1] for end in ("cls", "sep") if end in part}
        found |= {token for special in part.get("special_tokens", {}).values() for token in special["ids"]}
    return found


def _renumber_(processor: Table | None, place: Mapping[int, int]) -> None:
    for part in _processors(processor):
        for end in ("cls", "sep"):
            if end in part:
                part[end][1] = place[part[end][1]]
        for special in part.get("special_tokens", {}).values():
            special["ids"] = [place[token] for token in special["ids"]]


def _processors(processor: Table | None) -> list[Table]:
    """A post-processor, and those that it is made of."""
    if processor is None:
        return []
    return [processor, *(part for inner in processor.get("processors", ()) for part in _processors(inner))]


def _close_bpe(model: Table, pieces: set[str]) -> set[str]:
    if model["continuing_subword_prefix"]:
        raise ConfigError(
            f"languages: found byte-pair encoding with the prefix {model['continuing_subword_prefix']!r} within "
            "words; expected none; leave languages out"
        )
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    return close_over_merges(pieces, ranks, model["end_of_word_suffix"] or "")


def _shorten_bpe_(model: Table, place: Mapping[int, int]) -> None:
    _shorten_table_(model, place)
    model["merges"] = merges_within(model["merges"], model["vocab"])


def _close_unigram(model: Table, pieces: set[str]) -> set[str]:
    """The least likely piece stays, since unknown characters are scored by it, and so do single characters."""
    characters = {character for piece in pieces for character in piece}
    return characters | {min(model["vocab"], key=lambda row: row[1])[0]}


def _shorten_unigram_(model: Table, place: Mapping[int, int]) -> None:
    model["vocab"] = [row for token, row in enumerate(model["vocab"]) if token in place]
    if model["unk_id"] is not None:
        model["unk_id"] = place[model["unk_id"]]


def _close_wordpiece(model: Table, pieces: set[str]) -> set[str]:
    """Single characters stay, at the start of a word and within: without one, the whole word is unknown."""
    prefix = model["continuing_subword_prefix"]
    characters = {character for piece in pieces for character in piece.removeprefix(prefix)}
    return characters | {prefix + character for character in characters}


def _shorten_table_(model: Table, place: Mapping[int, int]) -> None:
    model["vocab"] = {piece: place[token] for piece, token in model["vocab"].items() if token in place}


class _Kind(NamedTuple):
    close: Callable[[Table, set[str]], set[str]]  # what some pieces need beside them
    shorten_: Callable[[Table, Mapping[int, int]], None]


KINDS: Mapping[str, _Kind] = {
    "BPE": _Kind(_close_bpe, _shorten_bpe_),
    "Unigram": _Kind(_close_unigram, _shorten_unigram_),
    "WordPiece": _Kind(_close_wordpiece, _shorten_table_),
}


def _kind(model: Table) -> _Kind:
    if model["type"] not in KINDS:
        raise ConfigError(
            f"languages: found a vocabulary of kind {model['type']}; expected one of {', '.join(KINDS)}; "
            "leave languages out"
        )
    return KINDS[model["type"]]
