"""The order in which (record, text) pairs are shown: any step of any epoch, without keeping an order in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmedge.errors import DataError

Index = NDArray[np.int64]
Words = NDArray[np.uint64]

WINDOW = 16  # groups (shards) whose pairs are mixed with each other
ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, eq=False)
class PairSampler:
    """Endless epochs of P rows over P pairs, cut into global batches.

    Pairs count through the texts of the records. Groups of records that lie together (shards) are
    shuffled in every epoch and read in windows of `WINDOW`, so that reading stays local; without
    groups all pairs are one window. In an epoch language l has `quotas[l]` rows. Where that is more
    than it has pairs it repeats them, all of them before any again; where it is less, the next epoch
    goes on where this one stopped (with groups: shows another random choice).
    """

    first_pair: Index  # [N + 1] offsets: the pairs of record i
    order: Index  # [P] pairs by group, then by language
    first: Index  # [G, L] offsets into `order`
    counts: Index  # [G, L] pairs of one group in one language
    quotas: Index  # [L] rows of an epoch
    languages: tuple[str, ...]  # [L]
    batch_size: int
    seed: int

    @property
    def pairs(self) -> int:
        """Number of pairs, and of the rows of an epoch."""
        return len(self.order)

    def rows(self, step: int) -> Index:
        """Pairs of the global batch of `step`, int64 [batch_size]; epochs follow each other without a gap."""
        epoch, place = np.divmod(step * self.batch_size + np.arange(self.batch_size), self.pairs)
        return np.concatenate([self.epoch_rows(int(one), place[epoch == one]) for one in np.unique(epoch)])

    def record(self, pair: int) -> tuple[int, int]:
        """Number of a pair's record, and which of the record's texts it is."""
        number = int(np.searchsorted(self.first_pair, pair, side="right")) - 1
        return number, pair - int(self.first_pair[number])

    def images_per_epoch(self, texts_per_image: int) -> int:
        """Draws after which as many texts were shown as there are, when each shows up to `texts_per_image`."""
        texts = np.diff(self.first_pair)
        shown = float((texts * np.minimum(texts, texts_per_image)).sum()) / self.pairs  # mean of a draw
        return max(1, round(self.pairs / shown))

    def epoch_rows(self, epoch: int, place: Index) -> Index:
        """Pairs at some places 0..P-1 of an epoch."""
        groups = shuffled(np.arange(len(self.counts)), len(self.counts), key(self.seed, 1, epoch))
        counts = self.counts[groups]
        edges = np.arange(0, len(groups), WINDOW)
        seen = np.cumsum(np.add.reduceat(counts, edges, axis=0), axis=0)  # [W, L] pairs to the end of each window
        shares = np.diff(seen * self.quotas // seen[-1], axis=0, prepend=0)  # [W, L] rows of each window
        stop = np.cumsum(shares.sum(1))
        window = np.searchsorted(stop, place, side="right")
        pairs = np.empty_like(place)
        for one in np.unique(window):
            mine, part = window == one, slice(edges[one], edges[one] + WINDOW)
            slot = shuffled(
                place[mine] - stop[one] + shares[one].sum(), shares[one].sum(), key(self.seed, 2, epoch, one)
            )
            language = np.searchsorted(np.cumsum(shares[one]), slot, side="right")
            turn = slot - (np.cumsum(shares[one]) - shares[one])[language]
            pairs[mine] = self._pick(epoch, int(one), groups[part], language, turn)
        return pairs

    def _pick(self, epoch: int, window: int, groups: Index, language: Index, turn: Index) -> Index:
        """The pairs that have the `turn`-th turns of their languages in a window of groups."""
        counts = self.counts[groups]  # [W, L]
        stop = np.cumsum(counts, axis=0)
        if len(self.counts) == 1:  # the window is the same in every epoch: go on in it
            turn, epoch = turn + epoch * self.quotas[language], 0
        size = stop[-1][language]
        cycle, turn = np.divmod(turn, size)
        place = shuffled(turn, size, key(self.seed, 3, epoch, window, language, cycle))
        group = (place[:, None] >= stop.T[language]).sum(1)
        place = place - (stop - counts)[group, language]
        pairs: Index = self.order[self.first[groups[group], language] + place]
        return pairs


def make_sampler(
    texts: Sequence[Sequence[str]],
    *,
    batch_size: int,
    seed: int,
    balance: float,
    groups: Sequence[tuple[int, int]] = (),
) -> PairSampler:
    """Prepare the order of some records.

    Args:
        texts: languages of the texts of every record. Records without texts are left out, unless no
            record has one; then every record is one pair.
        batch_size: pairs of a step, over all ranks.
        seed: of every order.
        balance: 0..1, see `language_shares`.
        groups: (start, stop) of records that are stored together, from the first to the last.

    Raises:
        DataError: there is no record, or the groups do not hold all of them in turn.
    """
    if not len(texts):
        raise DataError("the dataset holds no record; expected one or more; check its path and split")
    held = np.array(groups or [(0, len(texts))], np.int64)
    if held[0, 0] != 0 or held[-1, 1] != len(texts) or np.any(held[1:, 0] != held[:-1, 1]):
        raise DataError(f"the groups end at {held[:, 1].tolist()[:5]}...; expected {len(texts)} records without a gap")
    count = np.fromiter(map(len, texts), np.int64, len(texts))
    codes: dict[str, int] = {}
    language = np.fromiter((codes.setdefault(tag, len(codes)) for tags in texts for tag in tags), np.int64)
    if not len(language):
        codes, count, language = {"": 0}, np.ones_like(count), np.zeros(len(texts), np.int64)
    group = np.repeat(np.repeat(np.arange(len(held)), held[:, 1] - held[:, 0]), count)
    cell = group * len(codes) + language
    counts = np.bincount(cell, minlength=len(held) * len(codes)).astype(np.int64)
    return PairSampler(
        first_pair=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        order=np.argsort(cell, kind="stable"),
        first=(np.cumsum(counts) - counts).reshape(len(held), -1),
        counts=counts.reshape(len(held), -1),
        quotas=_apportion(language_shares(counts.reshape(len(held), -1).sum(0), balance), len(language)),
        languages=tuple(codes),
        batch_size=batch_size,
        seed=seed,
    )


def language_shares(counts: Index, balance: float) -> NDArray[np.float64]:
    """Chance of every language, proportional to n ** (1 - balance) for a language with n texts.

    Args:
        counts: [L] texts of each language; one without texts has no chance.
        balance: 1 draws all languages equally often, 0 as often as they occur.

    Source: Conneau and Lample 2019, arXiv:1901.07291, section 3.1, whose alpha is 1 - balance.
    """
    weight = np.where(counts > 0, counts.astype(np.float64) ** (1 - balance), 0.0)
    share: NDArray[np.float64] = weight / weight.sum()
    return share


def _apportion(shares: NDArray[np.float64], total: int) -> Index:
    """Whole numbers with the sum `total`, each within one of its share."""
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return whole


def shuffled(index: Index, size: ArrayLike, keys: Words) -> Index:
    """A random permutation of 0..size-1, one for every key, at some places only.

    A permutation of tens of millions of pairs would take hundreds of megabytes in every worker.

    Args:
        index: [N] places, less than `size`.
        size: [] or [N], of the permutation.
        keys: uint64 [1] or [N], which permutation.

    Source: Luby and Rackoff 1988 (rounds that swap and mix two halves of the bits); Black and Rogaway
        2002, "Ciphers with Arbitrary Finite Domains" (again until the result is in the range).
    """
    sizes, keys = np.broadcast_to(size, index.shape).astype(np.uint64), np.broadcast_to(keys, index.shape)
    bits = np.frexp((sizes - 1).astype(np.float64))[1]
    half = np.maximum((bits + 1) // 2, 3).astype(np.uint64)
    value, outside = index.astype(np.uint64), np.arange(len(index))
    while len(outside):
        value[outside] = _permute_bits(value[outside], half[outside], keys[outside])
        outside = outside[value[outside] >= sizes[outside]]
    return value.astype(np.int64)


def _permute_bits(value: Words, half: Words, keys: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (_mix(right + _mix(keys + np.uint64(number))) & mask)
    return (left << half) | right


def key(*parts: ArrayLike) -> Words:
    """A uint64 [1] or [N] key from whole numbers, single or [N]."""
    mixed = np.zeros(1, np.uint64)
    for part in parts:
        mixed = _mix(mixed + np.asarray(part).astype(np.uint64))
    return mixed


def _mix(value: Words) -> Words:
    """SplitMix64: every bit of the result depends on every bit of `value`."""
    value = value + np.uint64(_GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
