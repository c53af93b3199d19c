"""The text towers: a transformer over subwords, and a bag of subwords for the smallest devices."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.attention import Attention, FeedForward, attention_bias, zero_
from dmedge.model.config import ModelConfig


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of [B, L, W] tokens over the positions where the [B, L] mask is 1."""
    keep = mask.to(tokens.dtype)[:, :, None]
    return (tokens * keep).sum(1) / keep.sum(1).clamp(min=1.0)


class TextBlock(nn.Module):
    """Pre-norm transformer block whose two residual branches start at zero.

    A zero start keeps warm-started token embeddings intact (Zhang et al. 2019, arXiv:1901.09321).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        zero_(self.attention.out)
        zero_(self.feed_forward.down)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map [B, L, W] to [B, L, W] under a score bias [B * heads, 1, L]."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, bias)
        return x + self.feed_forward(self.feed_forward_norm(x))  # type: ignore[no-any-return]


class TextTransformer(nn.Module):
    """Token embeddings, learned positions, and `text_layers` blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.text_heads
        self.token = nn.Embedding(config.vocab_size, config.text_width)
        self.position = nn.Parameter(torch.zeros(config.context_length, config.text_width))
        self.blocks = nn.ModuleList(TextBlock(config.text_width, config.text_heads) for _ in range(config.text_layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map int [B, L] ids and mask to [B, L, W] token features."""
        x = self.token(ids) + self.position[: ids.shape[1]]
        bias = attention_bias(mask, self.heads)
        for block in self.blocks:
            x = block(x, bias)
        return x  # type: ignore[no-any-return]


class TextBag(nn.Module):
    """Token embeddings and one residual layer per token: no attention, no order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.text_width)
        self.norm = nn.LayerNorm(config.text_width)
        self.up = nn.Linear(config.text_width, config.text_width)
        self.down = nn.Linear(config.text_width, config.text_width)
        zero_(self.down)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map int [B, L] ids to [B, L, W] token features; `mask` only matters when pooling."""
        x = self.token(ids)
        return x + self.down(F.gelu(self.up(self.norm(x))))  # type: ignore[no-any-return]


TEXT_TOWERS: dict[str, Callable[[ModelConfig], nn.Module]] = {"transformer": TextTransformer, "bag": TextBag}
