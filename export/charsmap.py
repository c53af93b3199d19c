"""The rules by which a SentencePiece model rewrites text before it looks for pieces, read and written.

A charsmap holds the size of a trie in bytes, the trie as a double array of 32-bit units, and the results, each of them
ending in a zero. Of a unit bits 0 to 7 name the byte that leads to it, bit 8 says that a rule ends there, and bits 10
to 30 hold what is mixed into its place to find its branches, 256 times as much with bit 9; where a rule ends, the
branch of the byte 0 holds the place of its result.

Source: sentencepiece 0.2, sentencepiece_model.proto and src/normalizer.cc; darts-clone 0.32, src/darts.h.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.protobuf import byte_fields

_NORMALIZER, _CHARSMAP = 3, 2  # fields of ModelProto and of NormalizerSpec
_LABEL, _ENDS, _VALUE = 0x800000FF, 1 << 8, 1 << 31
_BYTES = np.arange(1, 256)
_ROOM = 1 << 16  # units of a trie that is written


def read_charsmap(model: bytes) -> bytes:
    """The charsmap in the content of a model's file; empty where it rewrites nothing.

    Raises:
        ValueError, IndexError: the bytes are no protobuf message.
    """
    for field, normalizer in byte_fields(memoryview(model)):
        if field == _NORMALIZER:
            return next((bytes(value) for inner, value in byte_fields(normalizer) if inner == _CHARSMAP), b"")
    return b""


def read_rules(charsmap: bytes) -> dict[str, str]:
    """What is rewritten as what; of the rules that fit at a place the longest applies."""
    if not charsmap:
        return {}
    size = int.from_bytes(charsmap[:4], "little")
    units, results = np.frombuffer(charsmap[4 : 4 + size], "<u4").astype(np.int64), charsmap[4 + size :]
    text = cache(lambda start: results[start : results.index(0, start)].decode())

    @cache
    def rests(base: int) -> tuple[tuple[str, str], ...]:
        """Of every rule that goes through here: what follows, and its result. Equal branches are stored once."""
        found: list[tuple[str, str]] = []
        for character, place in _characters(units, base):
            below = _branches(units, place)
            if units[place] & _ENDS:
                found.append((character, text(int(units[below]) & ~_VALUE)))
            found += [(character + rest, result) for rest, result in rests(below)]
        return tuple(found)

    return dict(rests(_branches(units, 0)))


def _branches(units: NDArray[np.int64], place: int) -> int:
    """What the byte of a branch is mixed into."""
    unit = int(units[place])
    return place ^ ((unit >> 10) << ((unit & 0x200) >> 6))


def _characters(units: NDArray[np.int64], base: int) -> Iterator[tuple[str, int]]:
    """Every character that goes on from a base, and the place where it ends."""
    waiting = [(base, b"")]
    while waiting:
        base, begun = waiting.pop()
        places = base ^ _BYTES
        inside = places < len(units)
        fits = inside & (units[np.where(inside, places, 0)] & _LABEL == _BYTES)
        for byte in _BYTES[fits].tolist():
            encoded = begun + bytes([byte])
            if len(encoded) == _length(encoded[0]):
                yield encoded.decode(), base ^ byte
            else:
                waiting.append((_branches(units, base ^ byte), encoded))


def _length(first: int) -> int:
    """Bytes of a character by the first of them."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def write_charsmap(rules: Mapping[str, str]) -> bytes:
    """A charsmap of these rules; equal rules give equal bytes."""
    results, places = bytearray(), {}
    for result in sorted(set(rules.values())):
        places[result] = len(results)
        results += result.encode() + b"\0"
    trie: dict[int, Any] = {}  # byte -> what goes on from there; 0 -> the place of a result
    for key, result in sorted(rules.items()):
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = places[result]
    units = _double_array(trie)
    return (4 * len(units)).to_bytes(4, "little") + units.astype("<u4").tobytes() + bytes(results)


def _double_array(trie: Mapping[int, Any]) -> NDArray[np.uint32]:
    """The units of a trie, as many as a look-up that finds nothing may touch."""
    units, is_free, is_base = np.zeros(_ROOM, np.uint32), np.ones(_ROOM, np.bool_), np.zeros(_ROOM, np.bool_)
    is_free[0], shared = False, dict[int, int]()
    waiting = [(0, trie)]
    for place, node in waiting:  # grows meanwhile
        base = shared.get(node[0]) if list(node) == [0] else None  # rules of one result may end in one unit
        if base is None:
            base = _free_base(is_free, is_base, list(node))
            is_base[base] = True
            is_free[[base ^ byte for byte in node]] = False
        if list(node) == [0]:
            shared[node[0]] = base
        units[place] |= (place ^ base) << 10 | (_ENDS if 0 in node else 0)
        for byte, below in node.items():
            units[base ^ byte] = byte or below | _VALUE
            if byte:
                waiting.append((base ^ byte, below))
    return units[: (np.flatnonzero(~is_free)[-1] | 255) + 1]


def _free_base(is_free: NDArray[np.bool_], is_base: NDArray[np.bool_], node: list[int]) -> int:
    """The least base that no other node has, and whose branches are free."""
    start, width = int(np.argmax(is_free)) & ~255, 1024  # nothing is free below
    while True:
        bases = np.arange(start, start + width)
        fits = ~is_base[bases]
        for byte in node:
            fits &= is_free[bases ^ byte]
        if fits.any():
            return start + int(np.argmax(fits))
        start, width = start + width, 256
