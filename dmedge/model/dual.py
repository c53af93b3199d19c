"""The dual encoder: two towers, one embedding space, and a fusion on top."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.config import ModelConfig
from dmedge.model.fusion import FusionHead
from dmedge.model.image import IMAGE_TOWERS
from dmedge.model.inner import narrow_
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
        """Map a [..., W] feature to [..., concepts] similarities."""
        return self.keys(feature)  # type: ignore[no-any-return]


class DualEncoder(nn.Module):
    """Image and text towers with a shared embedding, and a fusion of both.

    `encode_image`, `encode_text` and `fuse` are the programs of a bundle; `fuse_pair` and `classify` those
    of two variants. A tower returns a pooled feature and its parts: patches [B, P, V] of an image, tokens
    [B, L, W] of a text. Both are projected to a feature of unit length, which is the embedding, or which a
    concept head turns into one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image = IMAGE_TOWERS[config.image](config)
        self.text = TEXT_TOWERS[config.text](config)
        patch_width, text_width = int(self.image.out_width), int(self.text.out_width)  # type: ignore[arg-type]
        width = text_width if config.concepts else config.embed_dim
        self.image_projection = _projection(config.projection, patch_width, width)
        self.text_projection = _projection(config.projection, text_width, width)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))  # log of 1 / temperature
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if config.logit_bias else None
        self.head = ConceptHead(width, config.concepts) if config.concepts else None
        self.fusion = None if config.fusion == "none" else FusionHead(config, patch_width, text_width)
        self.prompts: nn.Linear | None = None  # embeddings of texts, [C, D], which export bakes in for `classify`
        narrow_(self, config.inner_widths)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed uint8 [B, H, W, 3] pixels.

        Returns:
            embedding [B, embed_dim], unit norm; patches [B, P, V], row-major over the image.
        """
        feature, patches = self.image_features(pixels)
        return self.embed(feature, self.config.image_sharpness), patches

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed int [B, L] token ids; the mask is 1 on tokens and 0 on padding.

        Returns:
            embedding [B, embed_dim], unit norm; tokens [B, L, W].
        """
        feature, tokens = self.text_features(ids, mask)
        return self.embed(feature, self.config.text_sharpness), tokens

    def fuse(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Score pairs: match logit [B], then class [B, classes] and answer [B, answers] logits, if any.

        Raises:
            ValueError: the model has no fusion.
        """
        if self.fusion is None:
            raise ValueError("this model was built with fusion = 'none'; it cannot fuse")
        shares = None if self.head is None else self._concept_shares(patches, tokens, mask)
        return self.fusion(patches, tokens, mask, shares)  # type: ignore[no-any-return]

    def fuse_pair(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Encode uint8 [B, H, W, 3] pixels and int [B, L] token ids, and return what `fuse` makes of them.

        Raises:
            ValueError: the model has no fusion.
        """
        _, patches = self.image(pixels)
        _, tokens = self.text(ids, mask)
        return self.fuse(patches, tokens, mask)

    def classify(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Score uint8 [B, H, W, 3] pixels against the prompts.

        Returns:
            scores [B, C], the dot products with the embedding of every prompt; embedding [B, embed_dim].

        Raises:
            ValueError: the model has no prompts.
        """
        if self.prompts is None:
            raise ValueError("this model has no prompts; it cannot classify")
        embedding, _ = self.encode_image(pixels)
        return self.prompts(embedding), embedding

    def image_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit-norm feature before the head, and the patches."""
        pooled, patches = self.image(pixels)
        return F.normalize(self.image_projection(pooled), dim=-1), patches

    def text_features(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit-norm feature before the head, and the tokens."""
        pooled, tokens = self.text(ids, mask)
        return F.normalize(self.text_projection(pooled), dim=-1), tokens

    def _concept_shares(self, patches: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the [B, concepts] probabilities that the image and the text mean each concept."""
        image = F.normalize(self.image_projection(patches.mean(1)), dim=-1)
        text = F.normalize(self.text_projection(masked_mean(tokens, mask)), dim=-1)
        shares = self.concept_logits(torch.stack([image, text])).softmax(-1)  # one product: the keys are large
        return shares[0], shares[1]

    def concept_logits(self, feature: Tensor) -> Tensor:
        """Return [..., concepts] logits of a [..., W] feature."""
        assert self.head is not None
        return self.head(feature) * self.logit_scale.exp()  # type: ignore[no-any-return]

    def embed(self, feature: Tensor, sharpness: float = 1.0) -> Tensor:
        """Map a [B, W] feature to its [B, embed_dim] unit-norm embedding; without a head it is that already."""
        if self.head is None:
            return feature
        logits = self.concept_logits(feature)
        return F.normalize((logits if sharpness == 1 else logits * sharpness).softmax(-1), dim=-1)


def _projection(kind: str, inputs: int, outputs: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return nn.Linear(inputs, outputs, bias=kind == "linear")
