"""Two towers of a few thousand weights under the contract of an objective, and batches for them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.training.batch import TextChunk, TrainBatch
from dmedge.training.distributed import gathered_contrastive_loss, siglip_ring_loss
from dmedge.training.losses import classification_loss, matryoshka

SIDE, VOCAB, WIDTH, EMBED, CLASSES = 4, 32, 16, 8, 3
Kind = Literal["infonce", "siglip", "matryoshka"]


class TinyObjective(nn.Module):
    """Layer-normalised towers, one joint loss, and a local classification of the pictures."""

    def __init__(
        self, kind: Kind = "infonce", dropout: float = 0.0, norm: type[nn.Module] = nn.LayerNorm, width: int = WIDTH
    ) -> None:
        super().__init__()
        self.kind = kind
        self.image = nn.Sequential(nn.Linear(SIDE * SIDE * 3, width), norm(width), nn.GELU(), nn.Dropout(dropout))
        self.image_out = nn.Linear(width, EMBED)
        self.token = nn.Embedding(VOCAB, width)
        self.text = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
        self.text_out = nn.Linear(width, EMBED)
        self.head = nn.Linear(width, CLASSES)
        # Both start where the SigLIP paper starts, so that gradients are of the order of 1.
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if kind == "siglip" else None

    def forward(self, batch: TrainBatch) -> dict[str, Tensor]:
        feature = self.image(batch.pixels.flatten(1).to(self.image_out.weight.dtype) / 255)
        encoded = {
            "image": F.normalize(self.image_out(feature), dim=-1),
            "text": torch.cat([self.encode_text(chunk) for chunk in batch.chunks] or [torch.zeros(0, EMBED)]),
            "image_key": batch.key,
            "text_key": torch.cat([chunk.key for chunk in batch.chunks] or [batch.key[:0]]),
            "scale": self.logit_scale.exp(),
        }
        if self.logit_bias is not None:
            encoded["bias"] = self.logit_bias + 0
        if batch.labels is not None:
            encoded["local/labels"] = 0.5 * classification_loss(self.head(feature), batch.labels)
        return encoded

    def encode_text(self, chunk: TextChunk) -> Tensor:
        mask = chunk.mask[..., None]
        mean = (self.token(chunk.ids) * mask).sum(1) / mask.sum(1)
        return F.normalize(self.text_out(self.text(mean)), dim=-1)

    def joint(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
        image, text, image_key, text_key = (encoded[name] for name in ("image", "text", "image_key", "text_key"))
        keys = {"image_key": image_key, "text_key": text_key, "scale": encoded["scale"]}
        if self.kind == "siglip":
            return {"siglip": siglip_ring_loss(image, text, bias=encoded["bias"], **keys)}

        def loss(image: Tensor, text: Tensor) -> Tensor:
            return gathered_contrastive_loss(image, text, **keys)

        if self.kind == "matryoshka":
            return {"matryoshka": matryoshka(loss, image, text, (2, 5, EMBED))}
        return {"infonce": loss(image, text)}


def tiny_batch(pictures: int = 64, *, texts: int = 2, labels: bool = True) -> TrainBatch:
    """Random pictures, each with as many random texts, in chunks of two lengths."""
    generator = torch.Generator().manual_seed(1)
    key = torch.arange(pictures) * 7
    chunks = []
    for rows, length in (
        (key.repeat(texts)[::3], 6),
        (torch.cat([key.repeat(texts)[1::3], key.repeat(texts)[2::3]]), 4),
    ):
        mask = (torch.arange(length) < torch.randint(1, length + 1, (len(rows), 1), generator=generator)).int()
        chunks.append(TextChunk(torch.randint(VOCAB, mask.shape, generator=generator).int(), mask, rows))
    return TrainBatch(
        pixels=torch.randint(256, (pictures, SIDE, SIDE, 3), generator=generator).to(torch.uint8),
        key=key,
        chunks=tuple(chunks),
        labels=torch.randint(CLASSES, (pictures,), generator=generator) if labels else None,
        names=tuple(f"picture {number}" for number in range(pictures)),
    )


def total_loss(objective: nn.Module, parts: Sequence[TrainBatch]) -> Tensor:
    """The loss of all parts in one graph, without any cache: what everything else is compared with."""
    encoded = [objective(part) for part in parts]
    pictures = sum(len(part.key) for part in parts)
    joined = {
        name: encoded[0][name] if encoded[0][name].ndim == 0 else torch.cat([part[name] for part in encoded])
        for name in encoded[0]
    }
    bare = objective if isinstance(objective, TinyObjective) else objective.module
    assert isinstance(bare, TinyObjective)
    local = [
        value * len(part.key) / pictures
        for part, outputs in zip(parts, encoded, strict=True)
        for name, value in outputs.items()
        if name.startswith("local/")
    ]
    return torch.stack([*bare.joint(joined).values(), *local]).sum()


def gradients(objective: nn.Module) -> dict[str, Tensor]:
    """A copy of the gradients by name of the parameter."""
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in objective.named_parameters()
        if parameter.grad is not None
    }
