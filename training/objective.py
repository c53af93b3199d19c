"""What one training step minimises."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.dual import DualEncoder
from dmedge.training.batch import TrainBatch
from dmedge.training.config import TrainConfig
from dmedge.training.distill import Distillation, view_of
from dmedge.training.distributed import gathered_contrastive_loss, siglip_ring_loss
from dmedge.training.losses import answer_loss, classification_loss, full_precision, match_loss, matryoshka

LARGEST_SCALE = 100.0  # of similarities, as in CLIP; a larger one would only chase the last pairs


class Objective(nn.Module):
    """The weighted losses of one batch on one rank.

    `forward` encodes, so it is what DDP and FSDP wrap; it returns embeddings and the losses that need no
    other rows, named "local/...". `joint` makes of embeddings the losses that compare all rows with each
    other. What is minimised is the sum of both; every value is weighted already.

    With a concept head the key of a picture is its concept, both modalities are classified among the
    concepts, and the shared anchors let each pull the other's classifier.
    """

    def __init__(self, model: DualEncoder, config: TrainConfig, distillation: Distillation | None = None) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.distillation = distillation  # no module: its teacher neither trains nor is saved

    @property
    def fuses(self) -> bool:
        """Whether the fusion trains together with the towers."""
        config = self.config
        return self.model.fusion is not None and config.match_weight + config.class_weight + config.answer_weight > 0

    def forward(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Encode a batch.

        Returns:
            "local/..." losses []; and where there is a contrastive loss "image" [B, D] and "text" [T, D]
            unit-norm embeddings, "image_key" [B], "text_key" [T], "scale" [] and, for SigLIP, "bias" [].
        """
        model, config = self.model, self.config
        image, patches = model.image_features(batch.pixels)
        texts = [model.text_features(chunk.ids, chunk.mask) for chunk in batch.chunks]
        text = torch.cat([feature for feature, _ in texts]) if texts else image[:0]
        text_key = torch.cat([chunk.key for chunk in batch.chunks]) if texts else batch.key[:0]
        view = view_of(model, image, text)
        found: dict[str, Tensor] = {}
        if view.image_logits is not None and view.text_logits is not None:
            found |= self._concept_losses(view.image_logits, view.text_logits, batch.key, text_key)
        assert view.image is not None and view.text is not None
        image, text = view.image, view.text
        if self.distillation is not None:
            weight = self.distillation.task_weight
            found = {name: weight * loss for name, loss in found.items()}
            found |= {f"local/{name}": loss for name, loss in self.distillation.losses(batch, view).items()}
        if config.contrastive_weight > 0:
            found |= {"image": image, "text": text, "image_key": batch.key, "text_key": text_key}
            found["scale"] = model.logit_scale.exp().clamp(max=LARGEST_SCALE)
            if model.logit_bias is not None:
                found["bias"] = model.logit_bias + 0
        if self.fuses:
            similarity = (image @ text.T).detach()
            found |= self._fusion_losses(batch, patches, [tokens for _, tokens in texts], text_key, similarity)
        return found

    def joint(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        """The contrastive loss of all rows that `forward` encoded; nothing where it has no weight."""
        if "image" not in encoded:
            return {}
        keys = {"image_key": encoded["image_key"], "text_key": encoded["text_key"], "scale": encoded["scale"]}

        def loss(image: Tensor, text: Tensor) -> Tensor:
            if self.config.loss == "siglip":
                return siglip_ring_loss(image, text, bias=encoded["bias"], **keys)
            return gathered_contrastive_loss(image, text, **keys)

        dims = self.config.matryoshka
        image, text = encoded["image"], encoded["text"]
        found = matryoshka(loss, image, text, dims) if dims else loss(image, text)
        weight = 1.0 if self.distillation is None else self.distillation.task_weight
        return {"contrastive": weight * self.config.contrastive_weight * found}

    def _concept_losses(self, image: Tensor, text: Tensor, image_key: Tensor, text_key: Tensor) -> dict[str, Tensor]:
        smoothing = self.config.label_smoothing
        by_text = F.cross_entropy(text, text_key, label_smoothing=smoothing, reduction="sum")
        return {
            "local/image": F.cross_entropy(image, image_key, label_smoothing=smoothing),
            # By the texts that a picture should have, so that parts of a batch weigh what they hold.
            "local/text": by_text / (len(image_key) * self.config.texts_per_image),
        }

    def _fusion_losses(
        self, batch: TrainBatch, patches: Tensor, tokens: Sequence[Tensor], text_key: Tensor, similarity: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the fusion on every picture with its first text, and with a text of another picture.

        The other text is drawn by similarity, so that the hard ones come up.

        Source: Li et al. 2021, arXiv:2107.07651, section 3.2 (hard negatives within the batch).
        """
        config, model = self.config, self.model
        is_own = batch.key[:, None] == text_key[None, :]  # [B, T]
        has_own = is_own.any(1)
        if not bool(has_own.any()):
            return {}
        rows = torch.nonzero(has_own).squeeze(1)
        tokens_all, mask_all = _padded(tokens, [chunk.mask for chunk in batch.chunks])
        own = is_own[rows].int().argmax(1)
        match, *heads = model.fuse(patches[rows], tokens_all[own], mask_all[own])
        found: dict[str, Tensor] = {}
        if config.class_weight > 0 and batch.labels is not None:
            labels = batch.labels[rows]
            known = labels >= 0 if labels.dim() == 1 else labels.isfinite().all(1)
            if bool(known.any()):
                loss = classification_loss(heads[0][known], labels[known], config.label_smoothing)
                found["local/class"] = config.class_weight * loss
        if config.answer_weight > 0 and batch.answers is not None:
            found["local/answer"] = config.answer_weight * answer_loss(heads[-1], batch.answers[rows])
        if config.match_weight > 0:
            chance = torch.softmax(full_precision(similarity[rows]) * model.logit_scale.detach().exp(), dim=1)
            chance = (chance + 1e-6) * ~is_own[rows]
            asked = chance.sum(1) > 0
            logits, is_match = match, torch.ones_like(match)
            if bool(asked.any()):
                other = torch.multinomial(chance[asked], 1).squeeze(1)
                wrong, *_ = model.fuse(patches[rows[asked]], tokens_all[other], mask_all[other])
                logits = torch.cat([match, wrong])
                is_match = torch.cat([is_match, torch.zeros_like(wrong)])
            found["local/match"] = config.match_weight * match_loss(logits, is_match)
        return found


def _padded(tokens: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All chunks of one batch as [T, L, W] tokens and [T, L] mask, filled up to the longest."""
    length = max(part.shape[1] for part in tokens)
    filled = [F.pad(part, (0, 0, 0, length - part.shape[1])) for part in tokens]
    return torch.cat(filled), torch.cat([F.pad(mask, (0, length - mask.shape[1])) for mask in masks])


def freeze_idle_(objective: Objective) -> None:
    """Stop what no loss reaches from training: DDP would wait for its gradients, weight decay would shrink it."""
    model, config = objective.model, objective.config
    idle: list[nn.Module] = []
    if model.fusion is not None and not objective.fuses:
        idle.append(model.fusion)
    elif model.fusion is not None:
        weights = {"match": config.match_weight, "classify": config.class_weight, "answer": config.answer_weight}
        heads = {name: getattr(model.fusion, name) for name in weights}
        idle += [head for name, head in heads.items() if head is not None and weights[name] == 0]
    if model.head is None and config.contrastive_weight == 0:
        idle += [model.image_projection, model.text_projection]
        model.logit_scale.requires_grad_(False)
    if model.logit_bias is not None and (config.contrastive_weight == 0 or config.loss != "siglip"):
        model.logit_bias.requires_grad_(False)
    for module in idle:
        module.requires_grad_(False)
