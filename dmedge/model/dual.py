"""The dual encoder: two towers, one embedding space, and a fusion on top."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.config import ModelConfig
from dmedge.model.fusion import CrossAttentionFusion
from dmedge.model.image import ConvNet
from dmedge.model.text import TEXT_TOWERS, masked_mean


class ConceptHead(nn.Module):
    """Read a feature as a mixture of learned concepts; the mixture is the embedding.

    `keys` holds one anchor per concept, shared by both modalities. Each number of the embedding
    is the share of one concept, so it can be read, and kept as its few largest entries; the dot
    product of two embeddings is the chance that both mean the same, up to their lengths.
    """

    def __init__(self, width: int, concepts: int) -> None:
        super().__init__()
        self.keys = nn.Linear(width, concepts, bias=False)

    def forward(self, feature: Tensor) -> Tensor:
        """Map a [B, W] feature to [B, concepts] similarities."""
        return self.keys(feature)  # type: ignore[no-any-return]


class DualEncoder(nn.Module):
    """Image and text towers with a shared embedding, and a fusion of both.

    The three public methods are the three exported programs.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ConvNet(config.image_width)
        self.text = TEXT_TOWERS[config.text](config)
        self.image_projection = nn.Linear(self.image.out_width, config.text_width)
        self.text_projection = nn.Linear(config.text_width, config.text_width)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))  # log of 1 / temperature
        self.head = ConceptHead(config.text_width, config.concepts) if config.concepts else None
        self.out = None if config.concepts else nn.Linear(config.text_width, config.embed_dim)
        self.fusion = (
            CrossAttentionFusion(self.image.out_width, config.text_width, config.fusion_heads, config.classes)
            if config.fusion == "cross-attention"
            else None
        )

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed uint8 [B, H, W, 3] pixels.

        Returns:
            embedding [B, embed_dim], unit norm; patches [B, P, V], row-major over the image.
        """
        feature, patches = self.image_features(pixels)
        return self.embed(feature), patches

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed int [B, L] token ids; the mask is 1 on tokens and 0 on padding.

        Returns:
            embedding [B, embed_dim], unit norm; tokens [B, L, W].
        """
        feature, tokens = self.text_features(ids, mask)
        return self.embed(feature), tokens

    def fuse(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score pairs: match logit [B] and class logits [B, classes].

        Raises:
            ValueError: the model has no fusion.
        """
        if self.fusion is None:
            raise ValueError("this model was built with fusion = 'none'; it cannot fuse")
        return self.fusion(patches, tokens, mask)  # type: ignore[no-any-return]

    def image_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit-norm [B, W] feature before the head, and the patches."""
        grid = self.image(pixels)
        batch, width, height, columns = grid.shape
        patches = grid.reshape(batch, width, height * columns).permute(0, 2, 1)
        pooled = grid.mean((2, 3))
        return F.normalize(self.image_projection(pooled), dim=-1), patches

    def text_features(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit-norm [B, W] feature before the head, and the tokens."""
        tokens = self.text(ids, mask)
        pooled = masked_mean(tokens, mask)
        return F.normalize(self.text_projection(pooled), dim=-1), tokens

    def concept_logits(self, feature: Tensor) -> Tensor:
        """Return [B, concepts] logits of a [B, W] feature."""
        assert self.head is not None
        return self.head(feature) * self.logit_scale.exp()  # type: ignore[no-any-return]

    def embed(self, feature: Tensor) -> Tensor:
        """Map a [B, W] feature to its [B, embed_dim] unit-norm embedding."""
        if self.head is not None:
            return F.normalize(self.concept_logits(feature).softmax(-1), dim=-1)
        assert self.out is not None
        return F.normalize(self.out(feature), dim=-1)
