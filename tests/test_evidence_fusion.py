"""Fusion figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet, emoji_evalset
from dmedge.evidence.fusion import evaluate_fusion

Logits = tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="module")
def data() -> EvalSet:
    return emoji_evalset(locales=["en"])


class Oracle:
    """Knows every picture and every English name; each answer is exact, and a blank says nothing."""

    def __init__(self, data: EvalSet) -> None:
        pack = load_pack()
        self.labels = pack.groups
        emoji = {item.hexcode: item for item in pack.emoji}
        self.of_image = {id(image): emoji[key] for image, key in zip(data.images, data.clusters, strict=True)}
        owners = [data.clusters[i] for i in data.text_image]
        self.of_text = {text: emoji[key] for text, key in zip(data.texts, owners, strict=True)}

    def pairs(self, images: Sequence[Any], texts: Sequence[str]) -> Logits:
        found = [self.of_image.get(id(image)) for image in images]
        named = [self.of_text.get(text) for text in texts]
        match = np.array([a is not None and a is b for a, b in zip(found, named, strict=True)], np.float32)
        classes = np.zeros((len(images), len(self.labels)), np.float32)
        for row, known in enumerate(a or b for a, b in zip(found, named, strict=True)):
            if known is not None:
                classes[row, known.group] = 1
        return match, classes


class Constant(Oracle):
    """Says the same of every pair."""

    def pairs(self, images: Sequence[Any], texts: Sequence[str]) -> Logits:
        return np.zeros(len(images), np.float32), np.zeros((len(images), len(self.labels)), np.float32)


def test_an_oracle_is_right_with_either_modality(data: EvalSet) -> None:
    found = evaluate_fusion(Oracle(data), data, pairs=300)
    for name in ("accuracy", "macro_f1", "macro_precision", "macro_recall"):
        assert found[f"class_{name}"] == {"image_and_text": 1.0, "image": 1.0, "text": 1.0}
    assert found["match_auc"] == {"random_negatives": 1.0, "same_subgroup_negatives": 1.0}


def test_a_head_of_other_classes_is_judged_by_its_matches_alone(data: EvalSet) -> None:
    other = Oracle(data)
    other.labels = tuple("abcdefghi")
    found = evaluate_fusion(other, data, pairs=300)
    assert found["match_auc"]["random_negatives"] == 1 and "class_accuracy" not in found


def test_a_constant_knows_nothing(data: EvalSet) -> None:
    found = evaluate_fusion(Constant(data), data, pairs=300)
    assert found["match_auc"] == {"random_negatives": 0.5, "same_subgroup_negatives": 0.5}
    assert found["class_accuracy"]["image_and_text"] <= found["most_common_class"]
    assert found["class_macro_recall"]["image_and_text"] == pytest.approx(1 / 9)
