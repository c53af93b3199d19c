"""The shape of a dual encoder, as stored in a checkpoint's `config.json`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything needed to rebuild the modules of a `DualEncoder`.

    `concepts` is the number of learned concepts that the embedding is a mixture of, and then
    `embed_dim` is the same number; 0 for a plain projection to `embed_dim`. `classes` is the
    number of outputs of the fusion's classification head.
    """

    vocab_size: int
    classes: int
    image: Literal["convnet"] = "convnet"
    image_size: int = 48
    image_width: int = 40
    text: Literal["transformer", "bag"] = "transformer"
    text_width: int = 192
    text_layers: int = 2
    text_heads: int = 4
    context_length: int = 64
    embed_dim: int = 192
    concepts: int = 0
    fusion: Literal["cross-attention", "none"] = "cross-attention"
    fusion_heads: int = 4

    def __post_init__(self) -> None:
        for name in ("vocab_size", "classes", "image_width", "text_width", "text_heads", "embed_dim", "fusion_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.image not in ("convnet",):
            raise ValueError(f"image is {self.image!r}; expected 'convnet'")
        if self.text not in ("transformer", "bag"):
            raise ValueError(f"text is {self.text!r}; expected 'transformer' or 'bag'")
        if self.fusion not in ("cross-attention", "none"):
            raise ValueError(f"fusion is {self.fusion!r}; expected 'cross-attention' or 'none'")
        if self.image_size % 8 or self.image_size < 16:
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of 8, 16 or more")
        if self.text_width % self.text_heads or self.text_width % self.fusion_heads:
            raise ValueError(
                f"text_width {self.text_width} does not divide into {self.text_heads} and {self.fusion_heads} heads"
            )
        if self.context_length < 2:
            raise ValueError(f"context_length is {self.context_length}; expected 2 or more")
        if self.concepts not in (0, self.embed_dim):
            raise ValueError(f"concepts is {self.concepts}; expected 0, or embed_dim, which is {self.embed_dim}")
