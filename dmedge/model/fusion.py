"""Cross-attention fusion: text tokens look at image patches, two heads read the result."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.attention import Attention, FeedForward, zero_
from dmedge.model.text import masked_mean


class CrossAttentionFusion(nn.Module):
    """One cross-attention block, then a match logit and class logits.

    The heads see the attended text and the pooled image side by side, so that either
    modality alone still carries information when the other is blank.
    """

    def __init__(self, patch_width: int, text_width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_width, text_width)
        self.patch_norm = nn.LayerNorm(text_width)
        self.token_norm = nn.LayerNorm(text_width)
        self.attention = Attention(text_width, heads)
        self.feed_forward_norm = nn.LayerNorm(text_width)
        self.feed_forward = FeedForward(text_width, expansion=2)
        zero_(self.feed_forward.down)
        self.joint = nn.Linear(2 * text_width, text_width)
        self.match = nn.Linear(text_width, 1)
        self.classify = nn.Linear(text_width, classes)

    def forward(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse [B, P, V] patches and [B, L, W] tokens into match [B] and class [B, C] logits."""
        image = self.patch_norm(self.patch(patches))
        x = tokens + self.attention(self.token_norm(tokens), image)
        x = x + self.feed_forward(self.feed_forward_norm(x))
        pooled = torch.cat([masked_mean(x, mask), image.mean(1)], dim=-1)
        hidden = F.gelu(self.joint(pooled))
        return self.match(hidden).squeeze(-1), self.classify(hidden)

    def attention_map(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """Return [B * heads, L, P]: where each text token looks in the image."""
        return self.attention.weights(self.token_norm(tokens), self.patch_norm(self.patch(patches)))
