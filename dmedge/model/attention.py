"""Attention that lowers well: three-dimensional `bmm`, additive bias, erf GELU.

`F.scaled_dot_product_attention` decomposes into operations that XNNPACK does not take, and
four-dimensional `matmul` adds a copy per operand; `torch.bmm` has neither cost.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

MASKED = -1e4  # added to a score before softmax; small enough for float16, large enough to vanish


def attention_bias(mask: Tensor, heads: int) -> Tensor:
    """Turn a [B, K] mask (1 keeps, 0 drops) into a [B * heads, 1, K] float32 score bias."""
    batch, keys = mask.shape
    bias = (1.0 - mask.to(torch.float32)) * MASKED
    return bias[:, None, None, :].expand(batch, heads, 1, keys).reshape(batch * heads, 1, keys)


class Rotary(nn.Module):
    """Turn pairs of query and key numbers by an angle that grows with the position.

    Scores then depend on distances, not on places, and no position needs a weight of its own.

    Source: Su et al. 2021, arXiv:2104.09864.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, context_length: int, base: float = 10000.0) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.arange(context_length)[:, None] * torch.cat([frequency, frequency])  # [L, d]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B * heads, L, d]."""
        length = x.shape[1]
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return x * self.cos[:length] + turned * self.sin[:length]


class Attention(nn.Module):
    """Multi-head attention of queries [B, Q, W] over a context [B, K, W].

    With `rotary`, queries and context are the same sequence and know their positions.
    """

    def __init__(self, width: int, heads: int, rotary: Rotary | None = None) -> None:
        super().__init__()
        self.rotary = rotary
        self.heads = heads
        self.head_dim = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def weights(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attention map, [B * heads, Q, K] rows that sum to 1."""
        query, key = self._split(self.query(x)), self._split(self.key(context))
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        scores = torch.bmm(query, key.transpose(1, 2)) * self.head_dim**-0.5
        return torch.softmax(scores if bias is None else scores + bias, dim=-1)

    def bias(self, mask: Tensor) -> Tensor:
        """What hides the keys where the [B, K] mask is 0; an exporter may put something else in its place."""
        return attention_bias(mask, self.heads)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return [B, Q, W]; `bias` [B * heads, 1, K] is added to the scores."""
        batch, length, _ = x.shape
        mixed = torch.bmm(self.weights(x, context, bias), self._split(self.value(context)))  # [B*h, Q, d]
        merged = mixed.view(batch, self.heads, length, self.head_dim).permute(0, 2, 1, 3)
        return self.out(merged.reshape(batch, length, self.heads * self.head_dim))  # type: ignore[no-any-return]

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


class Block(nn.Module):
    """Pre-norm transformer block whose two residual branches start at zero.

    A zero start keeps warm-started token embeddings intact (Zhang et al. 2019, arXiv:1901.09321).
    """

    def __init__(self, width: int, heads: int, rotary: Rotary | None = None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, rotary)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        zero_(self.attention.out)
        zero_(self.feed_forward.down)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map [B, L, W] to [B, L, W] under a score bias [B * heads, 1, L]."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, bias)
        return x + self.feed_forward(self.feed_forward_norm(x))  # type: ignore[no-any-return]


class Blocks(nn.ModuleList):
    """Transformer blocks in a row, which may forget their activations and compute them again.

    `recomputes` is set by training: memory for time (Chen et al. 2016, arXiv:1604.06174).
    """

    recomputes = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map [B, L, W] to [B, L, W]; positions where the [B, L] mask is 0 are not looked at."""
        attentions: dict[int, Attention] = {block.attention.heads: block.attention for block in self}  # type: ignore[union-attr, misc]
        biases = {heads: None if mask is None else found.bias(mask) for heads, found in attentions.items()}
        for block in self:
            bias = biases[block.attention.heads]  # type: ignore[union-attr, index]  # pruned blocks may have fewer
            if self.recomputes and torch.is_grad_enabled():
                x = checkpoint(block, x, bias, use_reentrant=False)
            else:
                x = block(x, bias)
        return x


def zero_(linear: nn.Linear) -> None:
    """Zero `linear`, so that a residual branch ending in it starts as the identity."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
