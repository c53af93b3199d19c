"""Losses over embeddings, labels, answers and matches.

All compute in float32 whatever autocast says, and need no process group: `distributed` gives the contrastive ones
over all ranks. An image and a text belong together exactly where their keys are equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Candidates:
    """The rows of all ranks, which the rows of one rank are compared with."""

    image: Tensor  # [B_all, D] unit norm
    text: Tensor  # [T_all, D] unit norm
    image_key: Tensor  # int64 [B_all]
    text_key: Tensor  # int64 [T_all]
    ranks: int = 1


def full_precision(tensor: Tensor) -> Tensor:
    """The same numbers in float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    image_key: Tensor,
    text_key: Tensor,
    scale: Tensor,
    candidates: Candidates | None = None,
) -> Tensor:
    """Symmetric InfoNCE where several texts may describe one image, and several images share one text.

    Each text picks among all images and each image among all texts; the probabilities of all its positives are
    summed. A row without a positive asks no question, yet stays a wrong answer for the others. With as many texts
    as images and keys that occur once it is the loss of CLIP. With `candidates` no more than [B, T_all] and
    [T, B_all] logits exist.

    Args:
        image: [B, D] unit-norm embeddings of this rank.
        text: [T, D] unit-norm embeddings of this rank.
        image_key: int64 [B].
        text_key: int64 [T].
        scale: [] multiplier of the similarities, i.e. 1 / temperature (not its log).
        candidates: rows of all ranks, those of this rank among them; without, the rows above are all there are.

    Returns:
        [] nats, the mean of both directions; log(B) for embeddings that carry no signal and T = B, and 0 where
        nothing has a positive. With `candidates` it is this rank's sum times `ranks` over the number of rows of
        all ranks: its mean over the ranks is the loss of the whole batch, however the rows are spread.

    Raises:
        ValueError: embeddings and keys differ in number.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3; Miech et al. 2020, arXiv:1912.06430 (positives summed).
    """
    _check_keys(image, image_key, "images")
    _check_keys(text, text_key, "texts")
    everyone = candidates or Candidates(image, text, image_key, text_key)
    with torch.autocast(image.device.type, enabled=False):
        to_image = scale * full_precision(text) @ full_precision(everyone.image).T  # [T, B_all]
        to_text = (
            scale * full_precision(image) @ full_precision(everyone.text).T if candidates else to_image.T
        )  # [B, T_all]
        text_loss = _nats(to_image, text_key[:, None] == everyone.image_key)
        image_loss = _nats(to_text, image_key[:, None] == everyone.text_key)
        asking_texts = torch.isin(everyone.text_key, everyone.image_key).sum().clamp(min=1)
        asking_images = torch.isin(everyone.image_key, everyone.text_key).sum().clamp(min=1)
        return everyone.ranks * (text_loss / asking_texts + image_loss / asking_images) / 2


def _nats(logits: Tensor, is_positive: Tensor) -> Tensor:
    """Sum over the rows of [Q, C] logits of -log of the probability of the positives."""
    if not logits.shape[1]:
        return logits.sum()  # 0, where the log of an empty sum has no number
    counted = is_positive | ~is_positive.any(1, keepdim=True)  # no positive: all count, so loss and gradient are 0
    return (logits.logsumexp(1) - logits.masked_fill(~counted, -torch.inf).logsumexp(1)).sum()


def siglip_loss(
    image: Tensor, text: Tensor, image_key: Tensor, text_key: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Sigmoid loss: every pair of an image and a text is judged on its own.

    Args:
        image: [B, D] unit-norm embeddings.
        text: [T, D] unit-norm embeddings.
        image_key: int64 [B].
        text_key: int64 [T].
        scale: [] multiplier of the similarities (not its log).
        bias: [] added to every logit.

    Returns:
        [] nats, summed over the texts and averaged over the images; T * log(2) at scale 0 and bias 0.

    Raises:
        ValueError: embeddings and keys differ in number.

    Source: Zhai et al. 2023, arXiv:2303.15343, algorithm 1.
    """
    return siglip_pair_sum(image, text, image_key, text_key, scale, bias) / max(len(image), 1)


def siglip_pair_sum(
    image: Tensor, text: Tensor, image_key: Tensor, text_key: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Return `siglip_loss` before the division by the number of images: [] nats summed over all pairs.

    Raises:
        ValueError: embeddings and keys differ in number.
    """
    _check_keys(image, image_key, "images")
    _check_keys(text, text_key, "texts")
    with torch.autocast(image.device.type, enabled=False):
        logits = scale * full_precision(image) @ full_precision(text).T + bias  # [B, T]
        return F.softplus(torch.where(image_key[:, None] == text_key, -logits, logits)).sum()


def matryoshka(loss: Callable[[Tensor, Tensor], Tensor], image: Tensor, text: Tensor, dims: Sequence[int]) -> Tensor:
    """Mean of a loss over prefixes of the embeddings, so that each prefix is an embedding of its own.

    Args:
        loss: maps unit-norm [B, d] images and [T, d] texts to [].
        image: [B, D] embeddings.
        text: [T, D] embeddings.
        dims: lengths of the prefixes in 1..D; D itself counts only if it is named.

    Raises:
        ValueError: a length is out of range, or there is none.

    Source: Kusupati et al. 2022, arXiv:2205.13147.
    """
    width = image.shape[1]
    if not dims or min(dims) < 1 or max(dims) > width:
        raise ValueError(f"dims {list(dims)}; expected lengths in 1..{width}, the width of the embedding; change dims")
    prefixes = [(full_precision(image)[:, :dim], full_precision(text)[:, :dim]) for dim in dims]
    losses = [
        loss(F.normalize(image_part, dim=-1), F.normalize(text_part, dim=-1)) for image_part, text_part in prefixes
    ]
    return torch.stack(losses).mean()


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of one class each, or binary cross-entropy of any number of classes each.

    Args:
        logits: [B, C].
        labels: int64 [B], one class each; or float [B, C] of 0 and 1, several classes each.
        label_smoothing: share in 0..1 of the target that is spread evenly: over the classes, or over yes and no.

    Returns:
        [] nats, averaged over B, or over B and C.

    Raises:
        ValueError: the labels are neither.

    Source: Szegedy et al. 2015, arXiv:1512.00567 (label smoothing).
    """
    with torch.autocast(logits.device.type, enabled=False):
        if labels.shape == logits.shape[:1] and not labels.is_floating_point():
            return F.cross_entropy(full_precision(logits), labels.long(), label_smoothing=label_smoothing)
        if labels.shape == logits.shape and labels.is_floating_point():
            target = full_precision(labels) * (1 - label_smoothing) + label_smoothing / 2
            return F.binary_cross_entropy_with_logits(full_precision(logits), target)
    raise ValueError(
        f"{labels.dtype} labels {[*labels.shape]} for logits {[*logits.shape]}; "
        "expected integers [B], or floating point [B, C]; change the labels or the head"
    )


def answer_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Binary cross-entropy with the soft score of every answer.

    Args:
        logits: [B, A].
        scores: [B, A] in 0..1, the share of people who would accept each answer.

    Returns:
        [] nats, summed over the answers and averaged over the questions.

    Raises:
        ValueError: shapes differ.

    Source: Teney et al. 2017, arXiv:1708.02711, section 3.7.
    """
    if logits.shape != scores.shape:
        raise ValueError(f"scores {[*scores.shape]} for logits {[*logits.shape]}; expected one of each; fix the batch")
    with torch.autocast(logits.device.type, enabled=False):
        return (
            F.binary_cross_entropy_with_logits(full_precision(logits), full_precision(scores), reduction="none")
            .sum(1)
            .mean()
        )


def match_loss(logits: Tensor, is_match: Tensor) -> Tensor:
    """Binary cross-entropy of "this text describes this image": [N] logits, [N] bool or 0 and 1; [] nats.

    Raises:
        ValueError: shapes differ.
    """
    if logits.shape != is_match.shape:
        raise ValueError(
            f"is_match {[*is_match.shape]} for logits {[*logits.shape]}; expected one of each; fix the batch"
        )
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy_with_logits(full_precision(logits), is_match.to(full_precision(logits).dtype))


def _check_keys(rows: Tensor, key: Tensor, noun: str) -> None:
    if rows.ndim != 2 or key.shape != rows.shape[:1]:
        raise ValueError(
            f"{noun}: embeddings {[*rows.shape]} with keys {[*key.shape]}; expected [N, D] with [N]; fix the batch"
        )
