"""Heads over frozen towers: the fusions that a study compares, trained on cached features."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.logs import progress
from dmedge.model.attention import Attention, zero_
from dmedge.model.config import Fusion, Modality, ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.fusion import FusionHead
from dmedge.model.text import masked_mean
from dmedge.study.features import Features
from dmedge.study.task import Ints, Pairs

PARTS = 4  # of a batch, by the length of the texts
CURVE_POINTS = 10  # of the validation curve of a run
WARMUP_SHARE, WEIGHT_DECAY, CLIP = 0.1, 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One design of the head.

    `votes` adds what the concepts of both sides say (`dmedge.model.fusion.ConceptVotes`); `is_plain` keeps
    only the text tokens after they looked at the picture. `hidden` is the width of the joint vector.
    """

    name: str
    fusion: Fusion = "cross-attention"
    modality: Modality = "full"
    votes: bool = False
    is_plain: bool = False
    hidden: int | None = None


ABLATION = (
    Variant("shipped", votes=True),
    Variant("vision-only", modality="vision", votes=True),
    Variant("text-only", modality="text", votes=True),
    Variant("no-attention", modality="no-attention", votes=True),
)
FUSIONS = (
    Variant("cross-attention"),
    Variant("concatenation", fusion="concatenation"),
    Variant("element-wise", fusion="product"),
)
PLAIN = Variant("plain-attention", is_plain=True)
VARIANTS = (*ABLATION, *FUSIONS, PLAIN)


class PlainAttention(nn.Module):
    """The text looks at the picture once, and its pooled tokens are classified: cross-attention and nothing more."""

    def __init__(self, config: ModelConfig, patch_width: int, width: int, hidden: int) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_width, width)
        self.patch_norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, config.fusion_heads)
        self.joint = nn.Linear(width, hidden)
        self.classify = nn.Linear(hidden, config.classes)
        zero_(self.attention.out)

    def forward(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Class logits [B, C] of [B, P, V] patches and [B, L, W] tokens."""
        context = self.patch_norm(self.patch(patches))
        tokens = tokens + self.attention(self.token_norm(tokens), context)
        return self.classify(F.gelu(self.joint(masked_mean(tokens, mask))))  # type: ignore[no-any-return]


class StudyHead(nn.Module):
    """A fusion of some variant over the towers of a frozen model, which are not among its parameters."""

    def __init__(self, model: DualEncoder, variant: Variant, members: Tensor) -> None:
        super().__init__()
        self.classes, concepts = members.shape
        config = replace(
            model.config,
            fusion=variant.fusion,
            modality=variant.modality,
            classes=self.classes,
            answers=0,
            concepts=concepts if variant.votes else 0,
            embed_dim=concepts if variant.votes else model.config.embed_dim,
        )
        patch_width, width = int(model.image.out_width), int(model.text.out_width)  # type: ignore[arg-type]
        hidden = variant.hidden or width
        self.fusion: nn.Module
        if variant.is_plain:
            self.fusion = PlainAttention(config, patch_width, width, hidden)
        else:
            self.fusion = FusionHead(config, patch_width, width, hidden)
            self.fusion.match.requires_grad_(False)  # nobody reads it here
            if variant.votes:
                assert self.fusion.votes is not None
                self.fusion.votes.members.copy_(members)
        self._shares = model._concept_shares if variant.votes else None

    def forward(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Class logits [B, C] of [B, P, V] patches and [B, L, W] tokens."""
        if isinstance(self.fusion, PlainAttention):
            return self.fusion(patches, tokens, mask)  # type: ignore[no-any-return]
        shares = None
        if self._shares is not None:
            with torch.no_grad():
                shares = self._shares(patches, tokens, mask)
        return self.fusion(patches, tokens, mask, shares)[1]  # type: ignore[no-any-return]


def parameters(module: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def matched(model: DualEncoder, variant: Variant, members: Tensor, budget: int) -> Variant:
    """The variant with the joint vector as wide as gives it `budget` parameters, or the next wider."""
    width = int(model.text.out_width)  # type: ignore[arg-type]
    at = [parameters(StudyHead(model, replace(variant, hidden=hidden), members)) for hidden in (width, 2 * width)]
    each = (at[1] - at[0]) / width  # the count is linear in the width
    return replace(variant, hidden=max(1, round(width + (budget - at[0]) / each)))


def train_head(
    head: StudyHead,
    train: tuple[Pairs, Features],
    judge: Callable[[StudyHead], float],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> dict[str, Any]:
    """Train a head in place: AdamW, a one-cycle rate, the loss of the pairs.

    Args:
        judge: accuracy on the validation pairs, asked ten times.

    Returns:
        seconds of training, without the judging; the curve, [step, accuracy] each; the last loss.
    """
    pairs, features = train
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 11])
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=WARMUP_SHARE)
    seconds, loss, curve = 0.0, float("nan"), []
    with progress("head", steps) as advance:
        for step in range(1, steps + 1):
            began = time.perf_counter()
            parts = features.by_length(rng.integers(len(pairs), size=batch_size), PARTS)
            logits = torch.cat([head(*features.draw(pairs.picture[rows], rows)) for rows in parts])
            cost = pairs.loss(logits, np.concatenate(parts))
            optimizer.zero_grad(set_to_none=True)
            cost.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
            schedule.step()
            loss = float(cost.detach())
            seconds += time.perf_counter() - began
            if step % max(1, steps // CURVE_POINTS) == 0 or step == steps:
                curve.append([step, judge(head)])
            advance(1, f"loss {loss:.2f}")
    return {"train_seconds": round(seconds, 2), "curve": curve, "loss": loss}


def predict(head: StudyHead, pairs: Pairs, features: Features, batch_size: int = 256) -> Ints:
    """[N] classes that the head names."""
    found: Ints = logits_of(head, pairs, features, batch_size).argmax(1)
    return found


@torch.no_grad()
def logits_of(head: StudyHead, pairs: Pairs, features: Features, batch_size: int = 256) -> NDArray[np.float32]:
    """[N, C] class logits of the head."""
    found = np.empty((len(pairs), head.classes), np.float32)
    for rows in features.by_length(np.arange(len(pairs)), -(-len(pairs) // batch_size)):
        found[rows] = head(*features.draw(pairs.picture[rows], rows)).numpy()
    return found


def state_of(head: StudyHead) -> Mapping[str, Tensor]:
    """Weights of the head alone, as they are kept."""
    return {name: tensor.contiguous() for name, tensor in head.fusion.state_dict().items()}
