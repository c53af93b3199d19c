"""What one training step minimises."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.dual import DualEncoder


@dataclass(frozen=True, eq=False)
class TextChunk:
    """Texts of similar length, padded together; `row` names the image row of each."""

    ids: Tensor  # int32 [T, L]
    mask: Tensor  # int32 [T, L]
    row: Tensor  # int64 [T]


def multi_positive_contrastive(image: Tensor, text: Tensor, row: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE where several texts describe one image.

    Args:
        image: [B, D] unit-norm embeddings.
        text: [T, D] unit-norm embeddings.
        row: [T] the image that each text describes.
        scale: [] multiplier of the similarities.

    Returns:
        [] mean of both directions in nats: text to image over B candidates, and image to text
        over T candidates with the probability of every positive summed.

    Source: Radford et al. 2021, arXiv:2103.00020; Khosla et al. 2020, arXiv:2004.11362 (positives summed).
    """
    logits = scale * text @ image.T  # [T, B]
    to_image = F.cross_entropy(logits, row)
    is_positive = F.one_hot(row, len(image)).bool()
    positive = logits.masked_fill(~is_positive, float("-inf")).logsumexp(0)  # [B]
    described = is_positive.any(0)
    to_text = (logits.logsumexp(0) - positive)[described].mean()
    return (to_image + to_text) / 2


class DualObjective(nn.Module):
    """Concept classification of both modalities and a contrastive loss on their embeddings.

    The concept anchors are shared by both modalities, so each pulls the other's classifier;
    the contrastive term trains the embeddings themselves. Without a concept head only it remains.
    """

    def __init__(self, model: DualEncoder, contrastive_weight: float, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.contrastive_weight = contrastive_weight
        self.label_smoothing = label_smoothing

    def forward(self, pixels: Tensor, chunks: Sequence[TextChunk], concepts: Tensor) -> dict[str, Tensor]:
        """Return the losses by name; "loss" is their weighted sum."""
        image, _ = self.model.image_features(pixels)
        text = torch.cat([self.model.text_features(chunk.ids, chunk.mask)[0] for chunk in chunks])
        row = torch.cat([chunk.row for chunk in chunks])
        scale = self.model.logit_scale.exp().clamp(max=100)
        if self.model.head is None:
            contrastive = multi_positive_contrastive(self.model.embed(image), self.model.embed(text), row, scale)
            return {"loss": contrastive, "contrastive": contrastive}
        image_logits = self.model.concept_logits(image).float()
        text_logits = self.model.concept_logits(text).float()
        image_loss = F.cross_entropy(image_logits, concepts, label_smoothing=self.label_smoothing)
        text_loss = F.cross_entropy(text_logits, concepts[row], label_smoothing=self.label_smoothing)
        losses = {"image": image_loss, "text": text_loss}
        total = image_loss + text_loss
        if self.contrastive_weight > 0:
            image_share = F.normalize(image_logits.softmax(-1), dim=-1)
            text_share = F.normalize(text_logits.softmax(-1), dim=-1)
            losses["contrastive"] = multi_positive_contrastive(image_share, text_share, row, scale)
            total = total + self.contrastive_weight * losses["contrastive"]
        return {"loss": total, **losses}
