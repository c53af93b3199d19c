"""Does attention point at what matters, and does the fusion weigh its sides by how much they have to say?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from dmedge.errors import DataError
from dmedge.evidence.attention import check_attends, maps_of
from dmedge.evidence.intervals import Figure, mean_figure
from dmedge.evidence.pairs import Pairs, encode_pairs
from dmedge.evidence.regions import (
    RANDOM,
    STEPS,
    Curves,
    Fill,
    gradient_regions,
    order_by,
    random_order,
    removal_curves,
)
from dmedge.evidence.weighting import Shift, Weighting, judge_shift, length_weighting, picture_weighting, text_weighting
from dmedge.model.checkpoint import Checkpoint

Target = Literal["match", "class"]
Verdict = Literal["beats random", "worse than random", "better one way, worse the other", "not shown to differ"]


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """How well one order of regions does, and how much better than a random one on the same pairs."""

    deletion_area: Figure
    insertion_area: Figure
    deletion_gain: Figure  # random minus this: above 0 if this order takes the answer away sooner
    insertion_gain: Figure  # this minus random: above 0 if this order brings the answer back sooner
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class RegionFigures:
    """Deletion and insertion of regions in several orders."""

    target: Target  # whose probability it is
    fill: str
    shares: tuple[float, ...]  # of the regions, at each step
    orders: dict[str, OrderFigures]
    mean_deletion: dict[str, tuple[float, ...]]  # probability at each step
    mean_insertion: dict[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class AttentionStudy:
    """All that is measured of the attention of one checkpoint."""

    n: int
    entropy: Figure  # over log P; 1 looks at all regions alike
    regions: RegionFigures
    weighting: tuple[Weighting, ...]
    dynamic_weighting: dict[str, Shift]  # by "trust" and by "drop", as the picture gets blurred

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)


def study_attention(
    checkpoint: Checkpoint,
    pairs: Pairs,
    target: Target = "match",
    *,
    fill: Fill = "white",
    steps: int = STEPS,
    seed: int = 0,
) -> AttentionStudy:
    """Measure what attention and gradient say of regions, and how image and text are weighed.

    Args:
        pairs: independent ones, such as `emoji_pairs` draws; intervals resample them.
        target: whose probability regions add to. The drops of a blank side are those of the class where it is known.
        fill: what a missing region shows.
        steps: of the curves.
        seed: of random orders and of the bootstrap.

    Raises:
        ArtifactError: the checkpoint has no cross-attention, or is quantized, so that it has no gradient.
        DataError: the target is "class" and the pairs have none.
    """
    check_attends(checkpoint)
    asked = pairs if target == "class" else replace(pairs, classes=None)
    if target == "class" and pairs.classes is None:
        raise DataError("the pairs have no classes; expected the class of each; ask for the match instead")
    encoded = encode_pairs(checkpoint, pairs)
    maps = maps_of(checkpoint, encoded)
    attention = order_by(np.stack([one.regions for one in maps]))
    orders = {
        "attention": attention,
        "gradient": order_by(gradient_regions(checkpoint, encoded, asked.classes)),
        RANDOM: random_order(*attention.shape, seed=seed),
    }
    curves = removal_curves(checkpoint, asked, encoded, orders, fill=fill, steps=steps)
    picture = picture_weighting(checkpoint, pairs, encoded, seed=seed)
    kept = text_weighting(checkpoint, pairs, encoded, seed=seed)
    return AttentionStudy(
        n=len(pairs.texts),
        entropy=mean_figure(np.array([one.entropy for one in maps]), seed=seed),
        regions=RegionFigures(
            target=target,
            fill=fill,
            shares=tuple(curves[RANDOM].shares.tolist()),
            orders=compare_orders(curves, seed=seed),
            mean_deletion={name: tuple(own.deletion.mean(0).tolist()) for name, own in curves.items()},
            mean_insertion={name: tuple(own.insertion.mean(0).tolist()) for name, own in curves.items()},
        ),
        weighting=(
            picture,
            *([] if kept is None else [kept]),
            length_weighting(checkpoint, pairs, encoded, seed=seed),
        ),
        dynamic_weighting=judge_shift(picture),
    )


def compare_orders(curves: Mapping[str, Curves], *, seed: int = 0) -> dict[str, OrderFigures]:
    """Every order beside the one named "random", paired by pair."""
    base, found = curves[RANDOM], {}
    for name, own in curves.items():
        gains = (base.deletion_area - own.deletion_area, own.insertion_area - base.insertion_area)
        deletion, insertion = (mean_figure(gain, seed=seed) for gain in gains)
        found[name] = OrderFigures(
            mean_figure(own.deletion_area, seed=seed),
            mean_figure(own.insertion_area, seed=seed),
            deletion,
            insertion,
            _verdict(deletion, insertion),
        )
    return found


def _verdict(deletion: Figure, insertion: Figure) -> Verdict:
    """An order beats random if it does so both ways; each interval excludes 0."""
    match sorted((deletion.direction, insertion.direction)):
        case ["above", "above"]:
            return "beats random"
        case ["below", "below"]:
            return "worse than random"
        case ["above", "below"]:
            return "better one way, worse the other"
    return "not shown to differ"
