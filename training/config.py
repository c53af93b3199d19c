"""Settings of the `train` stage."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """What a recipe chooses of the model; the data fixes the rest (vocabulary, concepts, classes).

    With `concept_head` the embedding has a number for every concept of the data; without it
    `embed_dim` numbers.
    """

    image_width: int = 40
    text: Literal["transformer", "bag"] = "transformer"
    text_width: int = 160
    text_layers: int = 2
    text_heads: int = 4
    context_length: int = 64
    embed_dim: int = 192
    concept_head: bool = True
    fusion: Literal["cross-attention", "none"] = "cross-attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; a step sees `batch_size` images and `texts_per_image` texts for each.

    `warm_start` factorises the token-by-concept matrix of the training text into token embeddings
    and concept anchors before the first step. `fusion_steps` train the fusion alone, on frozen
    towers, after the last step.
    """

    data: str = "emoji"
    seed: int = 0
    steps: int = 1500
    fusion_steps: int = 200
    batch_size: int = 96
    texts_per_image: int = 4
    vocab_size: int = 12000
    warm_start: bool = True
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    cooldown_share: float = 0.3
    weight_decay: float = 0.05
    clip_norm: float = 2.0
    ema_decay: float = 0.998
    contrastive_weight: float = 0.5
    name_share: float = 0.6
    text_noise: float = 0.2
    subword_sampling: float = 0.5
    augment: float = 1.0
    label_smoothing: float = 0.05
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    storage: Literal["float32", "float16"] = "float32"
    eval_every: int = 500
    eval_texts_per_language: int = 40
    save_every: int = 200
    model: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "texts_per_image", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.fusion_steps < 0:
            raise ValueError(f"fusion_steps is {self.fusion_steps}; expected 0 or more")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; a contrastive loss needs 2 or more")
        for name in ("name_share", "text_noise", "subword_sampling", "label_smoothing", "ema_decay", "cooldown_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected more than 0")
        if self.vocab_size < 400:
            raise ValueError(f"vocab_size is {self.vocab_size}; byte fallback alone takes 256, expected 400 or more")
