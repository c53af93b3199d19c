"""How well the fusion classifies and matches, and what each modality adds.

The classes are the nine groups of the embedded emoji; a missing picture is a white one, a
missing text an empty one, which is how the fusion was trained to go without.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dmedge.data.evalset import EvalSet
from dmedge.evidence.choices import UNKNOWN, emoji_of, true_classes
from dmedge.evidence.figures import area_under_curve, classification

PAIRS = 2000
CLASS_FIGURES = ("accuracy", "macro_f1", "macro_precision", "macro_recall")
WHITE = 255


class PairEncoder(Protocol):
    """What fuses pictures with texts: a bundle in its runtime, or a checkpoint."""

    labels: tuple[str, ...]

    def pairs(self, images: Sequence[Any], texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Match logits [N] and class logits [N, C] of N pairs."""
        ...


def evaluate_fusion(encoder: PairEncoder, data: EvalSet, *, pairs: int = PAIRS, seed: int = 0) -> dict[str, Any]:
    """Accuracy, macro F1, precision and recall of the class from both modalities and from each alone, and match AUC.

    Args:
        data: pictures of emoji, i.e. clusters are hexcodes; texts are drawn from it at random.
        pairs: how many matching pairs; every negative set has as many.
        seed: of the draw.

    Returns:
        figures of the class for "image_and_text", "image" and "text", with n and the share of the most
        common class, if the model has a head for these classes; match AUC against random pictures and against
        pictures of the same subgroup.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data.texts))[:pairs]
    image = data.text_image[rows]
    by_hexcode = emoji_of(data)
    shown = [by_hexcode[cluster] for cluster in data.clusters]
    label = true_classes(encoder.labels, data)[image]
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
        **_class_figures({"image_and_text": both, "image": image_only, "text": text_only}, label),
        "match_auc": {
            name: _auc(match, encoder.pairs([data.images[i] for i in negatives], texts)[0])
            for name, negatives in (("random_negatives", strangers), ("same_subgroup_negatives", siblings))
        },
    }


def _class_figures(logits: Mapping[str, NDArray[np.float32]], label: NDArray[np.int64]) -> dict[str, Any]:
    """Of each [N, C] logits, where the model has a head for classes of the data."""
    known = label != UNKNOWN
    if not known.any():
        return {}
    told = {name: found[known].argmax(1) for name, found in logits.items()}
    rows = {name: classification(label[known], classes).whole(int(known.sum())) for name, classes in told.items()}
    return {
        **{f"class_{key}": {name: row[key] for name, row in rows.items()} for key in CLASS_FIGURES},
        "most_common_class": float(np.bincount(label[known]).max() / known.sum()),
    }


def _auc(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
    """Chance that a random positive scores above a random negative; ties count half."""
    is_positive = np.arange(len(positive) + len(negative)) < len(positive)
    return area_under_curve(np.concatenate([positive, negative]), is_positive).whole(len(is_positive))["auc"]


def _siblings(image: NDArray[np.int64], subgroup: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Another picture of the same subgroup for every picture; any other one where it stands alone."""
    chosen = []
    for i in image:
        others = np.flatnonzero(subgroup == subgroup[i])
        others = others[others != i]
        chosen.append(rng.choice(others) if len(others) else (i + 1) % len(subgroup))
    return np.array(chosen, np.int64)
