"""The text towers: a transformer over subwords, and a bag of subwords for the smallest devices."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.attention import Block, Blocks, Rotary, zero_
from dmedge.model.config import ModelConfig


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of [B, L, W] tokens over the positions where the [B, L] mask is 1."""
    keep = mask.to(tokens.dtype)[:, :, None]
    return (tokens * keep).sum(1) / keep.sum(1).clamp(min=1.0)


class TextTransformer(nn.Module):
    """Token embeddings, learned or rotary positions, and `text_layers` blocks; pooled by the mean."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out_width = config.text_width
        self.token = nn.Embedding(config.vocab_size, config.text_width)
        is_rotary = config.positions == "rotary"
        self.position = None if is_rotary else nn.Parameter(torch.zeros(config.context_length, config.text_width))
        rotary = Rotary(config.text_width // config.text_heads, config.context_length) if is_rotary else None
        self.blocks = Blocks(Block(config.text_width, config.text_heads, rotary) for _ in range(config.text_layers))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map int [B, L] ids and mask to pooled [B, W] and token features [B, L, W]."""
        x = self.token(ids)
        if self.position is not None:
            x = x + self.position[: ids.shape[1]]
        x = self.blocks(x, mask)
        return masked_mean(x, mask), x


class TextBag(nn.Module):
    """Token embeddings and one residual layer per token: no attention, no order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out_width = config.text_width
        self.token = nn.Embedding(config.vocab_size, config.text_width)
        self.norm = nn.LayerNorm(config.text_width)
        self.up = nn.Linear(config.text_width, config.text_width)
        self.down = nn.Linear(config.text_width, config.text_width)
        zero_(self.down)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map int [B, L] ids to pooled [B, W] and token features [B, L, W]; `mask` only matters when pooling."""
        x = self.token(ids)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return masked_mean(x, mask), x


def _hugging_face(config: ModelConfig) -> nn.Module:
    from dmedge.model.hf import HfTextTower

    return HfTextTower(config)


TEXT_TOWERS: Mapping[str, Callable[[ModelConfig], nn.Module]] = {
    "transformer": TextTransformer,
    "bag": TextBag,
    "hf": _hugging_face,
}
