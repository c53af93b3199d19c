"""How the fusion weighs image against text as either gets simpler or harder: is its weighting dynamic?

Two things are told apart. *Trust* is the weight that the fusion itself gives to what the concepts of each side
vote for; only models with concepts have it. The *drop* of a side is what the answer loses once that side is
blank, which is what a side is worth, whatever weight it got.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from dmedge.evidence.attention import maps_of
from dmedge.evidence.intervals import Figure, mean_figure, rank_correlation
from dmedge.evidence.pairs import (
    Encoded,
    Pairs,
    blank_pixels,
    encode_ids,
    encode_pixels,
    fusion_of,
    probabilities,
    repeat_pairs,
)
from dmedge.evidence.regions import blurred
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.model.checkpoint import Checkpoint

BLUR_PX = (0.0, 2.0, 4.0, 8.0)
KEPT_TOKENS = (1, 2, 3, 5)
BINS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 10**9))  # tokens
Shift = Literal["confirmed", "refuted", "not shown"]
TRUSTS = ("trust_image", "trust_text", "trust_agreement")
Measures = dict[str, Floats]  # name -> [N]


@dataclass(frozen=True, slots=True)
class Level:
    """The means of all pairs at one level of complexity."""

    level: str
    n: int
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Weighting:
    """One way of making input simpler or harder, and what the weighting does along it."""

    axis: str
    levels: tuple[Level, ...]
    trends: dict[str, Figure]  # of each measure; `trend` says what
    trend: str
    directions: dict[str, str]  # "above", "below" or "unclear": whether the trend differs from 0


def measure_pairs(checkpoint: Checkpoint, encoded: Encoded, blank: Encoded, classes: Ints | None) -> Measures:
    """Trust, drops and attention entropy of N pairs.

    Args:
        blank: the same number of pairs, without picture and without text.
        classes: [N], whose probability drops; that of the match where there are none.
    """
    whole = probabilities(checkpoint, encoded, classes)
    without_image = probabilities(checkpoint, replace(encoded, patches=blank.patches), classes)
    without_text = probabilities(checkpoint, replace(blank, patches=encoded.patches), classes)
    found = {"probability": whole, "image_drop": whole - without_image, "text_drop": whole - without_text}
    if fusion_of(checkpoint).attends:
        found["entropy"] = np.array([one.entropy for one in maps_of(checkpoint, encoded)], np.float32)
    trust = trust_of(checkpoint, encoded)
    return found if trust is None else found | dict(zip(TRUSTS, trust.T, strict=True))


@torch.no_grad()
def trust_of(checkpoint: Checkpoint, encoded: Encoded) -> Floats | None:
    """Trust in image, text and agreement, [N, 3], 1 each where training changed nothing; None without concepts."""
    fusion = fusion_of(checkpoint)
    if fusion.votes is None:
        return None
    hidden = fusion.fused(encoded.patches, encoded.tokens, encoded.mask)
    trust: Floats = (2 * torch.sigmoid(fusion.votes.trust(hidden)) * fusion.votes.heard).numpy()
    return trust


def blank_of(checkpoint: Checkpoint, pairs: Pairs) -> Encoded:
    """As many pairs of a white picture and an empty text."""
    patches = encode_pixels(checkpoint, blank_pixels(pairs.pixels[:1]))
    ids, mask = map(torch.from_numpy, checkpoint.tokenizer.batch([""]))
    return repeat_pairs(encode_ids(checkpoint, patches, ids, mask), len(pairs.texts))


def picture_weighting(
    checkpoint: Checkpoint, pairs: Pairs, encoded: Encoded, *, blurs_px: Sequence[float] = BLUR_PX, seed: int = 0
) -> Weighting:
    """The same pairs with their pictures more and more blurred, from none; the trend is last minus first."""
    blank = blank_of(checkpoint, pairs)
    found = []
    for radius in blurs_px:
        patches = encode_pixels(checkpoint, blurred(pairs.pixels, radius)) if radius else encoded.patches
        found.append(measure_pairs(checkpoint, replace(encoded, patches=patches), blank, pairs.classes))
    names = [f"{radius:g} px" for radius in blurs_px]
    return _paired("blur of the picture", names, found, f"change from {names[0]} to {names[-1]}", seed)


def text_weighting(
    checkpoint: Checkpoint, pairs: Pairs, encoded: Encoded, *, kept: Sequence[int] = KEPT_TOKENS, seed: int = 0
) -> Weighting | None:
    """The same pairs with only the first few tokens of their texts; the trend is last minus first.

    Texts with fewer tokens than the last number are left out, so that all levels hold the same pairs. None where
    fewer than two are left.
    """
    rows = np.flatnonzero(encoded.mask.sum(1).numpy() >= kept[-1])
    if len(rows) < 2:
        return None
    chosen = torch.from_numpy(rows)
    blank = blank_of(checkpoint, Pairs(pairs.pixels[rows], tuple(pairs.texts[row] for row in rows)))
    classes = None if pairs.classes is None else pairs.classes[rows]
    place = encoded.mask[chosen].cumsum(1)  # padding may stand on the left
    found = []
    for count in kept:
        mask = encoded.mask[chosen] * (place <= count)
        part = encode_ids(checkpoint, encoded.patches[chosen], encoded.ids[chosen], mask)
        found.append(measure_pairs(checkpoint, part, blank, classes))
    names = [f"{count} tokens" for count in kept]
    return _paired("tokens kept of the text", names, found, f"change from {names[0]} to {names[-1]}", seed)


def length_weighting(checkpoint: Checkpoint, pairs: Pairs, encoded: Encoded, *, seed: int = 0) -> Weighting:
    """Different texts by their number of tokens, whole; the trend is Spearman's correlation with that number.

    Longer texts are other texts, in other languages: what `text_weighting` shows, the same pairs show.
    """
    found = measure_pairs(checkpoint, encoded, blank_of(checkpoint, pairs), pairs.classes)
    count = encoded.mask.sum(1).numpy()
    levels = []
    for low, high in BINS:
        rows = np.flatnonzero((count >= low) & (count <= high))
        if len(rows):
            name = f"{low}" if low == high else f"{low} or more" if high > count.max() else f"{low} to {high}"
            levels.append(_level(f"{name} tokens", {key: row[rows] for key, row in found.items()}, seed))
    trends = {key: rank_correlation(count, row, seed=seed) for key, row in found.items()}
    return _weighting("tokens of the text", levels, trends, "rank correlation with the number of tokens")


def judge_shift(picture: Weighting) -> dict[str, Shift]:
    """Whether the weight moves from a picture that gets worse to the text, by trust and by what each side is worth.

    Confirmed where the image loses and the text gains, refuted where it is the other way round; both intervals
    must exclude 0. Trust is missing for a model without concepts.
    """
    verdicts: dict[tuple[str, str], Shift] = {("below", "above"): "confirmed", ("above", "below"): "refuted"}
    sides = {"trust": ("trust_image", "trust_text"), "drop": ("image_drop", "text_drop")}
    found = picture.directions
    return {
        name: verdicts.get((found[image], found[text]), "not shown")
        for name, (image, text) in sides.items()
        if image in found
    }


def _paired(axis: str, names: Iterable[str], found: Sequence[Measures], trend: str, seed: int) -> Weighting:
    levels = [_level(name, measures, seed) for name, measures in zip(names, found, strict=True)]
    trends = {key: mean_figure(found[-1][key] - found[0][key], seed=seed) for key in found[0]}
    return _weighting(axis, levels, trends, trend)


def _weighting(axis: str, levels: Sequence[Level], trends: dict[str, Figure], trend: str) -> Weighting:
    return Weighting(axis, tuple(levels), trends, trend, {key: figure.direction for key, figure in trends.items()})


def _level(name: str, measures: Measures, seed: int) -> Level:
    figures = {key: mean_figure(values, seed=seed) for key, values in measures.items()}
    return Level(name, len(next(iter(measures.values()))), figures)
