"""Cross-attention fusion: text tokens look at image patches, two heads read the result."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.attention import Attention, FeedForward, zero_
from dmedge.model.text import masked_mean


class CrossAttentionFusion(nn.Module):
    """One cross-attention block, then a match logit and class logits.

    The heads see the attended text, the pooled image and their product: either modality alone
    still carries information when the other is blank, and the product makes agreement linear.
    """

    def __init__(self, patch_width: int, text_width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_width, text_width)
        self.patch_norm = nn.LayerNorm(text_width)
        self.token_norm = nn.LayerNorm(text_width)
        self.attention = Attention(text_width, heads)
        self.feed_forward_norm = nn.LayerNorm(text_width)
        self.feed_forward = FeedForward(text_width, expansion=2)
        self.image_projection = nn.Linear(patch_width, text_width)
        self.text_projection = nn.Linear(text_width, text_width)
        self.joint = nn.Linear(3 * text_width, text_width)
        self.match = nn.Linear(text_width, 1)
        self.classify = nn.Linear(text_width, classes)
        self.gain = text_width**0.5  # of unit vectors, so that a number in them is about 1
        zero_(self.attention.out)
        zero_(self.feed_forward.down)

    def forward(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse [B, P, V] patches and [B, L, W] tokens into match [B] and class [B, C] logits."""
        context = self.patch_norm(self.patch(patches))
        x = tokens + self.attention(self.token_norm(tokens), context)
        x = x + self.feed_forward(self.feed_forward_norm(x))
        text = F.normalize(self.text_projection(masked_mean(x, mask)), dim=-1) * self.gain
        image = F.normalize(self.image_projection(patches.mean(1)), dim=-1) * self.gain
        hidden = F.gelu(self.joint(torch.cat([text, image, text * image], dim=-1)))
        return self.match(hidden).squeeze(-1), self.classify(hidden)

    def attention_map(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """Return [B * heads, L, P]: where each text token looks in the image."""
        return self.attention.weights(self.token_norm(tokens), self.patch_norm(self.patch(patches)))
