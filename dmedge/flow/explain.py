"""One picture and one text, and what the fusion of a checkpoint does with them."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from dmedge.data.emoji import load_pack
from dmedge.data.pictures import open_record_image
from dmedge.data.transforms import Preprocess
from dmedge.errors import DataError
from dmedge.evidence.attention import AttentionMap, Grid, check_attends, grid_of, maps_of
from dmedge.evidence.attention_study import Target
from dmedge.evidence.pairs import Encoded, Pairs, encode_pairs, fusion_of, preprocessed, probabilities, repeat_pairs
from dmedge.evidence.regions import RANDOM, Curves, gradient_regions, order_by, random_order, removal_curves
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.model.checkpoint import Checkpoint

By = Literal["attention", "gradient"]
EMOJI = "emoji:"
SHOWN_PX = 168  # side of a picture as it is shown
STEPS = 12
RANDOM_ORDERS = 16
MAX_MEGAPIXELS = 64.0
CLASSES = 3  # likeliest ones


@dataclass(frozen=True, eq=False)
class Explanation:
    """What there is to see of one pair."""

    text: str
    picture: Image.Image  # what the model sees of it, in more pixels
    target: Target
    match: float  # probability that they belong together
    classes: tuple[tuple[str, float], ...]  # the likeliest, with their probabilities
    grid: Grid
    attention: AttentionMap | None
    gradient: Floats | None  # [P], above 0 where it speaks for the target; None of a quantized checkpoint
    curves: Mapping[str, Curves]  # by order; one pair each, but as many as there are random orders; maybe none
    language: str | None = None

    @property
    def is_right_to_left(self) -> bool:
        """Whether the first letter with a direction runs from right to left."""
        kinds = (unicodedata.bidirectional(letter) for letter in self.text)
        return next((kind != "L" for kind in kinds if kind in ("L", "R", "AL")), False)

    @property
    def probability(self) -> float:
        """Of the target."""
        return self.match if self.target == "match" else self.classes[0][1]

    def to_json(self) -> dict[str, Any]:
        """The figures; maps as rows of regions."""
        seen = self.attention
        return {
            "text": self.text,
            "target": self.target,
            "match": self.match,
            "classes": dict(self.classes),
            "grid": self.grid,
            "tokens": None if seen is None else seen.tokens,
            "attention": None if seen is None else seen.weights,
            "token_entropy": None if seen is None else seen.token_entropy,
            "gradient": self.gradient,
            "curves": {
                name: {
                    "shares": own.shares,
                    "deletion": own.deletion.mean(0),
                    "insertion": own.insertion.mean(0),
                    "deletion_area": own.deletion_area.mean(),
                    "insertion_area": own.insertion_area.mean(),
                }
                for name, own in self.curves.items()
            },
        }


def explain_pair(
    checkpoint: Checkpoint,
    image: Image.Image,
    text: str,
    *,
    target: Target = "match",
    by: By = "attention",
    has_curves: bool = True,
) -> Explanation:
    """Maps and curves of one pair.

    Args:
        target: the match, or the likeliest class.
        by: "gradient" leaves out attention, for a fusion that has none.
        has_curves: whether to take regions out and put them in, which takes most of the time.

    Raises:
        ArtifactError: there is no fusion, no cross-attention to show, or no gradient where only that was asked for.
        DataError: the text is empty, or a class was asked for and the model has none.
    """
    _check(checkpoint, text, target, by)
    pair = Pairs(preprocessed(checkpoint, [image]), (text,))
    encoded = encode_pairs(checkpoint, pair)
    shares = _class_shares(checkpoint, encoded)
    match = float(probabilities(checkpoint, encoded, None)[0])
    if target == "class":
        pair = replace(pair, classes=np.array([shares.argmax()], np.int64))
    seen = maps_of(checkpoint, encoded)[0] if by == "attention" else None
    is_float = checkpoint.quantization is None
    gradient = gradient_regions(checkpoint, encoded, pair.classes)[0] if is_float or by == "gradient" else None
    orders = {} if seen is None else {"attention": order_by(seen.regions[None])}
    orders |= {} if gradient is None else {"gradient": order_by(gradient[None])}
    return Explanation(
        text=text,
        picture=_shown(checkpoint.preprocess, image),
        target=target,
        match=match,
        classes=_likeliest(checkpoint, shares),
        grid=grid_of(encoded.patches.shape[1]),
        attention=seen,
        gradient=gradient,
        curves=_curves(checkpoint, pair, encoded, orders) if has_curves else {},
    )


def open_picture(name: str, style: str) -> Image.Image:
    """A picture file, or an emoji of the embedded pack: "emoji:🍜", or "emoji:1F35C" by its code points.

    Raises:
        DataError: there is no such file, emoji or style, or the file is no picture.
    """
    if not name.startswith(EMOJI):
        return open_record_image(Path(name), MAX_MEGAPIXELS)
    wanted, pack = name.removeprefix(EMOJI), load_pack()
    images, present = pack.images(style)
    for i, emoji in enumerate(pack.emoji):
        plain = emoji.char.replace("\ufe0f", "") == wanted.replace("\ufe0f", "")
        if present[i] and (plain or emoji.hexcode == wanted.upper()):
            return Image.fromarray(images[i])
    raise DataError(f"{name}: {style} draws no such emoji; expected one character or its code points; try another")


def _check(checkpoint: Checkpoint, text: str, target: Target, by: By) -> None:
    if not text.strip():
        raise DataError("the text is empty; expected a word or a phrase; put it in quotes")
    if by == "attention":
        check_attends(checkpoint)
    else:
        fusion_of(checkpoint)
    if target == "class" and not checkpoint.model.config.classes:
        raise DataError("the model has no classes; expected a class head; ask for the match instead (--target match)")


def _class_shares(checkpoint: Checkpoint, encoded: Encoded) -> Floats:
    """[C] probabilities of the classes of one pair; none without a class head."""
    count = checkpoint.model.config.classes
    return (
        probabilities(checkpoint, repeat_pairs(encoded, count), np.arange(count)) if count else np.zeros(0, np.float32)
    )


def _likeliest(checkpoint: Checkpoint, shares: Floats) -> tuple[tuple[str, float], ...]:
    names = checkpoint.labels or tuple(f"class {i}" for i in range(len(shares)))
    return tuple((names[i], float(shares[i])) for i in np.argsort(-shares)[:CLASSES])


def _curves(checkpoint: Checkpoint, pair: Pairs, encoded: Encoded, orders: Mapping[str, Ints]) -> dict[str, Curves]:
    regions = encoded.patches.shape[1]
    found = removal_curves(checkpoint, pair, encoded, orders, steps=STEPS)
    many = Pairs(
        np.repeat(pair.pixels, RANDOM_ORDERS, axis=0),
        pair.texts * RANDOM_ORDERS,
        None if pair.classes is None else np.repeat(pair.classes, RANDOM_ORDERS),
    )
    again = repeat_pairs(encoded, RANDOM_ORDERS)
    shuffled = {RANDOM: random_order(RANDOM_ORDERS, regions)}
    return found | removal_curves(checkpoint, many, again, shuffled, steps=STEPS)


def _shown(preprocess: Preprocess, image: Image.Image) -> Image.Image:
    edge = preprocess.shortest_edge
    larger = None if edge is None else round(edge * SHOWN_PX / preprocess.size)
    return Image.fromarray(replace(preprocess, size=SHOWN_PX, shortest_edge=larger)(image))
