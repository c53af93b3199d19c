"""Distillation: losses that pull a student towards what a teacher says of the same batch."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.training.batch import TrainBatch
from dmedge.training.losses import full_precision

RELATION_SCALE = 20.0  # multiplies cosines before their softmax: 1 / temperature


@dataclass(frozen=True, eq=False)
class View:
    """What a model makes of a batch, or a teacher knows of it; None for what it does not say."""

    image: Tensor | None = None  # [B, D] unit norm
    text: Tensor | None = None  # [T, D] unit norm
    image_logits: Tensor | None = None  # [B, concepts]
    text_logits: Tensor | None = None  # [T, concepts]
    has_image: Tensor | None = None  # bool [B], where `image` says something; None: everywhere
    has_text: Tensor | None = None  # bool [T], likewise


Teacher = Callable[[TrainBatch], View]


@dataclass(frozen=True, eq=False)
class Distillation:
    """A teacher, and how much each kind of agreement with it weighs; `task_weight` is that of the labels.

    `feature_weight` is for the embeddings themselves, where both are as wide; `relation_weight` for the
    similarities between the items of a batch; `logit_weight` for the probabilities of the concepts.
    """

    teacher: Teacher
    feature_weight: float = 1.0
    relation_weight: float = 1.0
    logit_weight: float = 1.0
    task_weight: float = 1.0

    def losses(self, batch: TrainBatch, student: View) -> dict[str, Tensor]:
        """Weighted losses [] by name; only those for which both sides have something to say."""
        with torch.no_grad():
            teacher = self.teacher(batch)
        pairs = {
            "image": (_rows(student.image, teacher.has_image), _rows(teacher.image, teacher.has_image)),
            "text": (_rows(student.text, teacher.has_text), _rows(teacher.text, teacher.has_text)),
        }
        found: dict[str, list[Tensor]] = {"feature": [], "relation": [], "logits": []}
        for own, other in pairs.values():
            if own is not None and other is not None and len(own) and own.shape == other.shape:
                found["feature"].append(feature_loss(own, other))
        for rows, columns in (("image", "text"), ("text", "image"), ("text", "text")):
            sides = (*pairs[rows], *pairs[columns])
            if all(side is not None and len(side) for side in sides) and not (
                rows == columns and teacher.image is not None
            ):
                found["relation"].append(relation_loss(*sides))  # type: ignore[arg-type]
        for name in ("image_logits", "text_logits"):
            own, other = getattr(student, name), getattr(teacher, name)
            if own is not None and other is not None and own.shape == other.shape:
                found["logits"].append(logit_loss(own, other))
        weights = {"feature": self.feature_weight, "relation": self.relation_weight, "logits": self.logit_weight}
        return {
            name: weights[name] * torch.stack(parts).mean() for name, parts in found.items() if parts and weights[name]
        }


def _rows(tensor: Tensor | None, known: Tensor | None) -> Tensor | None:
    return tensor if tensor is None or known is None else tensor[known]


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine over [N, D] embeddings: 0 where they point the same way."""
    return (1 - F.cosine_similarity(full_precision(student), full_precision(teacher), dim=-1)).mean()


def relation_loss(
    student_rows: Tensor, teacher_rows: Tensor, student_columns: Tensor, teacher_columns: Tensor
) -> Tensor:
    """How differently student and teacher spread each row's likeness over the columns.

    Widths may differ between student and teacher, since only similarities are compared.

    Args:
        student_rows: [R, D] unit-norm embeddings.
        teacher_rows: [R, E].
        student_columns: [C, D].
        teacher_columns: [C, E].

    Returns:
        [] nats, the Kullback-Leibler divergence from the teacher's softmax, averaged over the rows; 0 for equal
        similarities.

    Source: Wu et al. 2023, arXiv:2309.12314, section 3.2 (affinity mimicking).
    """
    return _divergence(
        RELATION_SCALE * full_precision(student_rows) @ full_precision(student_columns).T,
        RELATION_SCALE * full_precision(teacher_rows) @ full_precision(teacher_columns).T,
    )


def logit_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence in nats from the teacher's [N, C] class probabilities, averaged over N.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    return _divergence(full_precision(student), full_precision(teacher))


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


class ModelTeacher:
    """A dual encoder that reads the same pixels and the same tokens as its student.

    It works on a copy of the model, whose convolutions are folded and laid out for speed.
    """

    def __init__(self, model: DualEncoder) -> None:
        self.model = deepcopy(model).eval()
        fold_batch_norm_(self.model)
        self.model.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, batch: TrainBatch) -> View:
        """What it makes of a batch."""
        if self.model.logit_scale.device != batch.pixels.device:
            self.model.to(batch.pixels.device)
        image, _ = self.model.image_features(batch.pixels)
        texts = [self.model.text_features(chunk.ids, chunk.mask)[0] for chunk in batch.chunks]
        text = torch.cat(texts) if texts else None
        return view_of(self.model, image, text)


@dataclass(frozen=True, eq=False)
class TableTeacher:
    """Embeddings that were computed before, one for every key: of a text in a language that the teacher knows.

    The texts of a batch, whatever their language, are pulled towards that of their key.

    Source: Reimers & Gurevych 2020, arXiv:2004.09813 (multilingual distillation over parallel text).
    """

    table: Tensor  # float32 [keys, D] unit norm; rows of zeros where there is no text

    def __call__(self, batch: TrainBatch) -> View:
        """The rows of the keys of a batch."""
        keys = torch.cat([chunk.key for chunk in batch.chunks])
        rows = self.table[keys.cpu()].to(batch.pixels.device)
        return View(text=rows, has_text=rows.square().sum(-1) > 0)


def view_of(model: DualEncoder, image: Tensor, text: Tensor | None) -> View:
    """What there is to compare of a model's features: its embeddings, and its logits where it has concepts."""
    if model.head is None:
        return View(image=image, text=text)
    image_logits = full_precision(model.concept_logits(image))
    text_logits = None if text is None else full_precision(model.concept_logits(text))
    shares = [
        None if logits is None else F.normalize(logits.softmax(-1), dim=-1) for logits in (image_logits, text_logits)
    ]
    return View(shares[0], shares[1], image_logits, text_logits)
