"""The shape of a dual encoder, as stored in a checkpoint's `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

ImageTower = Literal["convnet", "vit", "hf"]
TextTower = Literal["transformer", "bag", "hf"]
Positions = Literal["learned", "rotary"]
Projection = Literal["linear", "linear-no-bias", "none"]
Fusion = Literal["cross-attention", "concatenation", "product", "none"]
Modality = Literal["full", "vision", "text", "no-attention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything needed to rebuild the modules of a `DualEncoder`.

    `concepts` is the number of learned concepts that the embedding is a mixture of, and then
    `embed_dim` is the same number; 0 for a plain projection to `embed_dim`. The two sharpnesses
    multiply the logits of that mixture; below 1 it is less sure of itself. `classes` and `answers`
    are numbers of outputs of the fusion's heads, 0 for no such head. `modality` says what the
    fusion looks at: "vision" and "text" leave out the other side, "no-attention" keeps both but not
    the cross-attention. `image_hf` and `text_hf` describe towers of Hugging Face
    (`dmedge.model.hf`), empty for the own ones. `inner_widths` names the modules that were pruned, and
    how many units each has left: channels, hidden units or heads.
    """

    vocab_size: int
    classes: int
    answers: int = 0
    image: ImageTower = "convnet"
    image_size: int = 48
    image_width: int = 40
    image_layers: int = 6  # of the vit
    image_heads: int = 4
    patch_size: int = 8
    image_hf: Mapping[str, object] = field(default_factory=dict)
    text: TextTower = "transformer"
    text_width: int = 192
    text_layers: int = 2
    text_heads: int = 4
    positions: Positions = "learned"
    context_length: int = 64
    text_hf: Mapping[str, object] = field(default_factory=dict)
    embed_dim: int = 192
    concepts: int = 0
    image_sharpness: float = 1.0
    text_sharpness: float = 1.0
    projection: Projection = "linear"
    logit_bias: bool = False
    fusion: Fusion = "cross-attention"
    fusion_heads: int = 4
    modality: Modality = "full"
    inner_widths: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        if min(self.classes, self.answers, self.concepts, self.text_layers) < 0:
            raise ValueError("classes, answers, concepts and text_layers cannot be less than 0")
        if min(self.image_sharpness, self.text_sharpness) <= 0:
            raise ValueError(f"sharpness is {self.image_sharpness}, {self.text_sharpness}; expected more than 0")
        self._check_image()
        self._check_text()

    def _check_image(self) -> None:
        if self.image == "convnet" and (self.image_size % 8 or self.image_size < 16):
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of 8, 16 or more")
        if self.image == "vit" and self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} does not divide into patches of {self.patch_size}")
        if self.image == "vit" and self.image_width % self.image_heads:
            raise ValueError(f"image_width {self.image_width} does not divide into {self.image_heads} heads")
        if (self.image == "hf") != bool(self.image_hf) or (self.text == "hf") != bool(self.text_hf):
            raise ValueError("a tower is described by image_hf or text_hf exactly where it is 'hf'")

    def _check_text(self) -> None:
        heads = self.text_heads if self.text == "transformer" else 1
        if self.text_width % heads or (self.fusion == "cross-attention" and self.text_width % self.fusion_heads):
            raise ValueError(
                f"text_width {self.text_width} does not divide into {self.text_heads} and {self.fusion_heads} heads"
            )
        if self.positions == "rotary" and (self.text_width // self.text_heads) % 2:
            raise ValueError(
                f"text_width {self.text_width} over {self.text_heads} heads is odd; expected even for rotary positions"
            )
        if self.context_length < 2:
            raise ValueError(f"context_length is {self.context_length}; expected 2 or more")
        if self.concepts not in (0, self.embed_dim):
            raise ValueError(f"concepts is {self.concepts}; expected 0, or embed_dim, which is {self.embed_dim}")
        if self.concepts and "hf" in (self.image, self.text):
            raise ValueError("a concept head needs dmedge's own towers, pooled by the mean; set concept_head = false")


SIZES = (
    *("vocab_size", "image_width", "image_layers", "image_heads", "patch_size"),
    *("text_width", "text_heads", "embed_dim", "fusion_heads"),
)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "image": get_args(ImageTower),
    "text": get_args(TextTower),
    "positions": get_args(Positions),
    "projection": get_args(Projection),
    "fusion": get_args(Fusion),
    "modality": get_args(Modality),
}
