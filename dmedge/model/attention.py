"""Attention that lowers well: three-dimensional `bmm`, additive bias, erf GELU.

`F.scaled_dot_product_attention` decomposes into operations that XNNPACK does not take, and
four-dimensional `matmul` adds a copy per operand; `torch.bmm` has neither cost.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -1e4  # added to a score before softmax; small enough for float16, large enough to vanish


def attention_bias(mask: Tensor, heads: int) -> Tensor:
    """Turn a [B, K] mask (1 keeps, 0 drops) into a [B * heads, 1, K] float32 score bias."""
    batch, keys = mask.shape
    bias = (1.0 - mask.to(torch.float32)) * MASKED
    return bias[:, None, None, :].expand(batch, heads, 1, keys).reshape(batch * heads, 1, keys)


class Attention(nn.Module):
    """Multi-head attention of queries [B, Q, W] over a context [B, K, W]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def weights(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attention map, [B * heads, Q, K] rows that sum to 1."""
        query = self._split(self.query(x))
        key = self._split(self.key(context)).transpose(1, 2)  # [B*h, d, K]
        scores = torch.bmm(query, key) * self.head_dim**-0.5
        return torch.softmax(scores if bias is None else scores + bias, dim=-1)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return [B, Q, W]; `bias` [B * heads, 1, K] is added to the scores."""
        batch, length, width = x.shape
        mixed = torch.bmm(self.weights(x, context, bias), self._split(self.value(context)))  # [B*h, Q, d]
        merged = mixed.view(batch, self.heads, length, self.head_dim).permute(0, 2, 1, 3)
        return self.out(merged.reshape(batch, length, width))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = x.view(batch, length, self.heads, self.head_dim).permute(0, 2, 1, 3)
        return heads.reshape(batch * self.heads, length, self.head_dim)


class FeedForward(nn.Module):
    """Two linear layers with erf GELU, the only GELU that XNNPACK computes."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., W] to [..., W]."""
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


def zero_(linear: nn.Linear) -> None:
    """Zero `linear`, so that a residual branch ending in it starts as the identity."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
