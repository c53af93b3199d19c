"""Byte-pair encoding: the pieces that merges pass through on their way to others."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

Ranks = Mapping[tuple[str, str], int]  # two pieces that become one -> how early


def close_over_merges(pieces: Iterable[str], ranks: Ranks, suffix: str) -> set[str]:
    """`pieces` and all that lies between them and their characters.

    Merging is greedy, and no merge crosses the border of a piece that is left in the end, so the way to
    it is the same within any text. With all of that way left, and the merges between what is left in
    their order, text made of `pieces` takes the same merges as before.

    Args:
        pieces: what to reach; one that merges do not lead to needs nothing else.
        ranks: of all merges.
        suffix: of pieces that end a word, "" for none.
    """
    closed = set(pieces)
    for piece in sorted(closed):
        closed |= _way_to(piece, ranks, suffix)
    return closed


def merges_within(merges: Iterable[Sequence[str]], pieces: Mapping[str, int]) -> list[Sequence[str]]:
    """The merges whose parts and result are among `pieces`, in order."""
    return [merge for merge in merges if all(piece in pieces for piece in (*merge, "".join(merge)))]


def _way_to(piece: str, ranks: Ranks, suffix: str) -> set[str]:
    symbols = _characters(piece, suffix)
    passed = set(symbols)
    while len(symbols) > 1:
        found = [(ranks[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not found:
            return set()
        place = min(found)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        passed.add(symbols[place])
    return passed


def _characters(piece: str, suffix: str) -> list[str]:
    """What a piece is before any merge; the last character of a word carries the suffix."""
    if not suffix or not piece.endswith(suffix) or piece == suffix:
        return list(piece)
    characters = list(piece.removesuffix(suffix))
    return [*characters[:-1], characters[-1] + suffix]
