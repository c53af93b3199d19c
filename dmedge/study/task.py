"""What a study asks of a model: pairs of a picture and a text, and what is true of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dmedge.training.losses import answer_loss, classification_loss

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Pictures: TypeAlias = Pixels | Sequence[Any]  # uint8 [M, S, S, 3], or PIL images that are opened when asked for
Part = Literal["train", "validation", "test"]
Kind = Literal["one", "several", "answer"]

UNKNOWN = -1  # label of a question whose answers are none of the classes: no prediction is right


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs over M pictures; a picture may be in many.

    A pair has "one" class, or "several", each with a score of 1 in `scores`, or an "answer" that most people
    gave as its label, while `scores` holds the official accuracy of every class that somebody answered.
    """

    name: str
    pictures: Pictures  # [M]
    picture: Ints  # [N] index into pictures
    texts: tuple[str, ...]  # [N]
    languages: tuple[str, ...]  # [N]
    label: Ints  # [N] the first or greatest of the classes
    cluster: Ints  # [N] what intervals resample; pairs of one cluster are no independent samples
    kind: Kind = "one"
    scores: tuple[Mapping[int, float], ...] = ()  # [N] class -> 0..1; empty where a pair has one class
    owner: Ints | None = None  # [N] the cluster whose text it is; None where all texts are their picture's own

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def is_own(self) -> NDArray[np.bool_]:
        """[N] whether the text is one of the picture's."""
        return np.ones(len(self), bool) if self.owner is None else self.owner == self.cluster

    def right(self, predicted: Ints) -> Doubles:
        """[N] what naming these classes is worth: 1 for a true one, the official accuracy for an answer.

        Source: Antol et al. 2015, arXiv:1505.00468 (answers).
        """
        if self.kind == "one":
            hits: Doubles = (predicted == self.label).astype(np.float64)
            return hits
        return np.array([of.get(c, 0.0) for c, of in zip(predicted.tolist(), self.scores, strict=True)])

    def commonest(self, classes: int) -> float:
        """What naming the same class for every pair is worth, at best."""
        if self.kind == "one":
            return float(np.bincount(self.label).max() / len(self))
        total = np.zeros(classes)
        for scores in self.scores:
            for number, score in scores.items():
                total[number] += score
        return float(total.max() / len(self))

    def targets(self, rows: Ints, classes: int) -> Tensor:
        """[B, C] float32 scores of every class for some pairs that have `scores`."""
        found = torch.zeros(len(rows), classes)
        for place, row in enumerate(rows.tolist()):
            for number, score in self.scores[row].items():
                found[place, number] = score
        return found

    def loss(self, logits: Tensor, rows: Ints) -> Tensor:
        """[] mean loss in nats of the [B, C] logits of some pairs, as training takes it of the same data."""
        if self.kind == "one":
            return F.cross_entropy(logits, torch.from_numpy(self.label[rows]))
        targets = self.targets(rows, logits.shape[1])
        return classification_loss(logits, targets) if self.kind == "several" else answer_loss(logits, targets)

    def first(self, count: int) -> "Pairs":
        """The first pairs, which are in random order, and only the pictures that they show."""
        rows = np.arange(min(count, len(self)))
        shown, picture = np.unique(self.picture[rows], return_inverse=True)
        return replace(
            self,
            pictures=picked(self.pictures, shown),
            picture=picture,
            texts=self.texts[: len(rows)],
            languages=self.languages[: len(rows)],
            label=self.label[rows],
            cluster=self.cluster[rows],
            scores=self.scores[: len(rows)],
            owner=None if self.owner is None else self.owner[rows],
        )


def picked(pictures: Pictures, places: Ints) -> Pictures:
    """Some of the pictures, those that are PIL images opened now."""
    return pictures[places] if isinstance(pictures, np.ndarray) else [pictures[place] for place in places.tolist()]
