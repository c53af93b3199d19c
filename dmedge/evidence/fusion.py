"""How well the fusion classifies and matches, and what each modality adds.

The classes are the nine groups of the embedded emoji; a missing picture is a white one, a
missing text an empty one, which is how the fusion was trained to go without.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet

PAIRS = 2000
WHITE = 255


class PairEncoder(Protocol):
    """What fuses pictures with texts: a bundle in its runtime, or a checkpoint."""

    labels: tuple[str, ...]

    def pairs(self, images: Sequence[Any], texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Match logits [N] and class logits [N, C] of N pairs."""
        ...


def evaluate_fusion(encoder: PairEncoder, data: EvalSet, *, pairs: int = PAIRS, seed: int = 0) -> dict[str, Any]:
    """Accuracy of the class from both modalities and from each alone, and match AUC.

    Args:
        data: pictures of emoji, i.e. clusters are hexcodes; texts are drawn from it at random.
        pairs: how many matching pairs; every negative set has as many.
        seed: of the draw.

    Returns:
        class accuracy for "image_and_text", "image" and "text", with n and the share of the most
        common class; match AUC against random pictures and against pictures of the same subgroup.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data.texts))[:pairs]
    image = data.text_image[rows]
    pack = load_pack()
    by_hexcode = {emoji.hexcode: emoji for emoji in pack.emoji}
    shown = [by_hexcode[cluster] for cluster in data.clusters]
    label = np.array([encoder.labels.index(pack.groups[shown[i].group]) for i in image])
    texts = [data.texts[row] for row in rows]
    pictures = [data.images[i] for i in image]
    blank = np.full_like(pictures[0], WHITE)
    match, both = encoder.pairs(pictures, texts)
    _, image_only = encoder.pairs(pictures, [""] * len(rows))
    _, text_only = encoder.pairs([blank] * len(rows), texts)
    strangers = (image + rng.integers(1, len(shown), size=len(image))) % len(shown)
    siblings = _siblings(image, np.array([emoji.subgroup for emoji in shown]), rng)
    return {
        "n": len(rows),
        "class_accuracy": {
            name: float(np.mean(logits.argmax(1) == label))
            for name, logits in (("image_and_text", both), ("image", image_only), ("text", text_only))
        },
        "most_common_class": float(np.bincount(label).max() / len(label)),
        "match_auc": {
            name: auc(match, encoder.pairs([data.images[i] for i in negatives], texts)[0])
            for name, negatives in (("random_negatives", strangers), ("same_subgroup_negatives", siblings))
        },
    }


def auc(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
    """Chance that a random positive scores above a random negative; ties count half.

    Source: Mann & Whitney 1947, the U statistic over n * m.
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def _siblings(image: NDArray[np.int64], subgroup: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Another picture of the same subgroup for every picture; any other one where it stands alone."""
    chosen = []
    for i in image:
        others = np.flatnonzero(subgroup == subgroup[i])
        others = others[others != i]
        chosen.append(rng.choice(others) if len(others) else (i + 1) % len(subgroup))
    return np.array(chosen, np.int64)
