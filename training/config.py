"""Settings of the `train` stage."""

from dataclasses import dataclass, field
from typing import Literal

from dmedge.data.records import DatasetConfig
from dmedge.model.config import Fusion, ImageTower, Modality, Positions, TextTower


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """What a recipe chooses of the model; the data fixes the rest (vocabulary, concepts, classes).

    With `concept_head`, which needs data with concepts, the embedding has a number for every
    concept; without it `embed_dim` numbers. `image_from` and `text_from` name a local folder or a
    hub name, for a tower that is "hf".
    """

    image: ImageTower = "convnet"
    image_size: int = 48
    image_width: int = 40
    image_layers: int = 6
    image_heads: int = 4
    patch_size: int = 8
    image_from: str = ""
    text: TextTower = "transformer"
    text_width: int = 160
    text_layers: int = 2
    text_heads: int = 4
    positions: Positions = "learned"
    context_length: int = 64
    text_from: str = ""
    embed_dim: int = 192
    concept_head: bool = True
    fusion: Fusion = "cross-attention"
    modality: Modality = "full"

    def __post_init__(self) -> None:
        for side in ("image", "text"):
            if (getattr(self, side) == "hf") != bool(getattr(self, f"{side}_from")):
                raise ValueError(f"{side} = 'hf' and {side}_from go together; set both or neither")


AT_LEAST_ONE = (
    *("batch_size", "texts_per_image", "eval_every", "eval_texts_per_language"),
    *("save_every", "keep_last", "patience", "grad_cache_parts"),
)
NOT_NEGATIVE = (
    *("steps", "low_resolution_steps"),
    *("epochs", "fusion_steps", "warmup_steps", "workers", "weight_decay", "clip_norm", "augment"),
    *("contrastive_weight", "match_weight", "class_weight", "answer_weight"),
)
SHARES = (
    *("name_share", "text_noise", "subword_sampling", "style_mixing", "label_smoothing", "ema_decay"),
    *("cooldown_share", "language_balance", "layer_decay"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; a step sees `batch_size` images, over all ranks, and `texts_per_image` texts each.

    `data` names the format that `dataset` is read in; "emoji" is the data that ships with dmedge.
    `init` continues from the weights of a checkpoint, with the model as it is there.
    `warm_start` factorises the token-by-concept matrix of the training text into token embeddings
    and concept anchors before the first step. With 0 `steps` the towers stay as they begin.
    `fusion_steps` train the fusion alone, on frozen towers, after the last step; `match_weight`,
    `class_weight` and `answer_weight` train it together with the towers. `grad_cache_parts` cuts a
    batch into parts whose activations are never held together. `freeze` and `layer_decay` name and
    grade what moves less. The first `low_resolution_steps` see pictures at two thirds of their size,
    which costs less than half. `languages` are those that text is shown in; a tag stands for its scripts
    and regions too, and none for all.
    """

    data: str = "emoji"
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    validation: DatasetConfig | None = None  # None: the split that the format has for it, if any
    init: str = ""
    seed: int = 0
    steps: int = 1500
    epochs: float = 0.0  # of the dataset, in place of `steps`
    fusion_steps: int = 200
    batch_size: int = 96
    texts_per_image: int = 4
    vocab_size: int = 12000
    warm_start: bool = True
    # optimisation
    learning_rate: float = 2e-3
    schedule: Literal["trapezoid", "cosine", "constant"] = "trapezoid"
    warmup_steps: int = 50
    cooldown_share: float = 0.3
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    freeze: tuple[str, ...] = ()
    clip_norm: float = 2.0
    ema_decay: float = 0.998
    # losses
    loss: Literal["infonce", "siglip"] = "infonce"
    contrastive_weight: float = 0.5
    matryoshka: tuple[int, ...] = ()
    match_weight: float = 0.0
    class_weight: float = 0.0
    answer_weight: float = 0.0
    label_smoothing: float = 0.05
    # data
    languages: tuple[str, ...] = ()
    name_share: float = 0.6
    language_balance: float = 1.0
    text_noise: float = 0.2
    subword_sampling: float = 0.5
    augment: float = 1.0
    horizontal_flip: bool = False
    style_mixing: float = 0.5
    low_resolution_steps: int = 0
    workers: int = 0
    # memory and speed
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    grad_cache_parts: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False
    sharding: Literal["none", "fsdp"] = "none"
    find_batch_size: bool = False
    # the run
    storage: Literal["float32", "float16"] = "float32"
    eval_every: int = 500
    eval_texts_per_language: int = 40
    early_stop: str = ""
    patience: int = 3
    save_every: int = 200
    keep_last: int = 2
    trackers: tuple[str, ...] = ("tensorboard",)
    model: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; a contrastive loss needs 2 or more")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1")
        if self.low_resolution_steps and self.model.image != "convnet":
            raise ValueError(f"low_resolution_steps with image = {self.model.image!r}; only a convnet takes any size")
        if self.find_batch_size and self.sharding != "none":
            raise ValueError(
                f"find_batch_size with sharding = {self.sharding!r}, which cannot repeat a backward pass that ran out "
                "of memory; set find_batch_size = false, and grad_cache_parts if need be"
            )
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected more than 0")
        if self.vocab_size < 400:
            raise ValueError(f"vocab_size is {self.vocab_size}; byte fallback alone takes 256, expected 400 or more")
        if any(width < 1 for width in self.matryoshka):
            raise ValueError(f"matryoshka is {list(self.matryoshka)}; expected widths of 1 or more")
