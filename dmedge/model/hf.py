"""Encoders of Hugging Face as towers: uint8 pixels or int ids in, a pooled feature and its parts out.

The modules are transformers' own, built from the settings that a checkpoint keeps, so they compute
what the original computes; only scaling, normalisation and channel order of pixels are added here.
`dmedge.model.hf_rewrite` puts parts in that compute the same, where runtimes need others.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dmedge.config import load_config
from dmedge.errors import ConfigError, require
from dmedge.model.config import ModelConfig
from dmedge.model.hf_rewrite import rewrite_
from dmedge.model.text import masked_mean

Pool = Literal["pooler", "cls", "mean"]  # the encoder's own, its first token, or the mean over all parts
Channels = Literal["RGB", "BGR"]


@dataclass(frozen=True, slots=True)
class Family:
    """Encoders of one `model_type`: their class, how they are pooled unless told otherwise."""

    model: str  # a class of transformers
    pool: Pool
    has_optional_pooler: bool = False  # built with or without, since weights that do nothing get no gradient


IMAGE_FAMILIES: Mapping[str, Family] = {
    "clip_vision_model": Family("CLIPVisionModel", "pooler"),
    "siglip_vision_model": Family("SiglipVisionModel", "pooler"),
    "vit": Family("ViTModel", "cls", has_optional_pooler=True),
    "dinov2": Family("Dinov2Model", "cls"),
    "mobilevit": Family("MobileViTModel", "pooler"),
}
TEXT_FAMILIES: Mapping[str, Family] = {
    "clip_text_model": Family("CLIPTextModel", "pooler"),
    "siglip_text_model": Family("SiglipTextModel", "pooler"),
    "siglip2_text_model": Family("Siglip2TextModel", "pooler"),
    "bert": Family("BertModel", "mean", has_optional_pooler=True),
    "camembert": Family("CamembertModel", "mean", has_optional_pooler=True),
    "distilbert": Family("DistilBertModel", "mean"),
    "electra": Family("ElectraModel", "mean"),
    "modernbert": Family("ModernBertModel", "mean"),
    "mpnet": Family("MPNetModel", "mean", has_optional_pooler=True),
    "roberta": Family("RobertaModel", "mean", has_optional_pooler=True),
    "xlm-roberta": Family("XLMRobertaModel", "mean", has_optional_pooler=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """`ModelConfig.image_hf`: an encoder, and how its pixels are scaled: (pixel * rescale - mean) / std."""

    model_type: str
    config: Mapping[str, object]  # of transformers
    pool: Pool
    width: int  # of the pooled feature
    patches: int
    rescale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: Channels = "RGB"  # the order in which the encoder takes them; pixels come as RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """`ModelConfig.text_hf`: an encoder, the most tokens it takes, and whether it looks at the mask."""

    model_type: str
    config: Mapping[str, object] = field(default_factory=dict)
    pool: Pool
    width: int  # of the pooled feature; `ModelConfig.text_width` is that of the tokens
    positions: int
    masks: bool = True


class HfImageTower(nn.Module):
    """An image encoder of transformers over uint8 pixels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        spec = load_config(ImageSpec, config.image_hf, where="image_hf")
        self.out_width, self.patches = spec.width, spec.patches
        self.pool, self.rescale, self.is_flipped = spec.pool, spec.rescale, spec.channels == "BGR"
        self.model = build_encoder(IMAGE_FAMILIES, spec.model_type, spec.config, spec.pool)
        self.mean = nn.Buffer(torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.std = nn.Buffer(torch.tensor(spec.std)[:, None, None], persistent=False)
        for name, parameter in self.model.named_parameters():
            if name.endswith("mask_token"):  # of pre-training; it would never get a gradient
                parameter.requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [B, H, W, 3] RGB pixels to pooled [B, out_width] and row-major patches [B, P, V]."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)
        if self.is_flipped:
            x = x.flip(1)
        output = self.model(pixel_values=(x * self.rescale - self.mean) / self.std)
        hidden = output.last_hidden_state
        is_map = hidden.dim() == 4  # [B, V, h, w] of a convolutional encoder; else class tokens before the patches
        patches = hidden.flatten(2).transpose(1, 2) if is_map else hidden[:, hidden.shape[1] - self.patches :]
        match self.pool:
            case "cls":
                return hidden[:, 0], patches
            case "mean":
                return patches.mean(1), patches
        return output.pooler_output, patches


class HfTextTower(nn.Module):
    """A text encoder of transformers.

    Raises:
        ConfigError: the context is longer than the encoder's, or a fusion is asked for where the
            pooled feature is not as wide as the tokens.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        spec = load_config(TextSpec, config.text_hf, where="text_hf")
        if config.context_length > spec.positions:
            raise ConfigError(
                f"context_length is {config.context_length}; expected at most {spec.positions}, "
                f"the positions of this {spec.model_type} encoder; lower it"
            )
        if config.fusion != "none" and spec.width != config.text_width:
            raise ConfigError(
                f"this {spec.model_type} encoder pools {config.text_width} numbers per token to {spec.width}; "
                "expected as many for a fusion; set fusion = 'none', or choose another encoder"
            )
        self.out_width, self.pool, self.masks = spec.width, spec.pool, spec.masks
        self.model = build_encoder(TEXT_FAMILIES, spec.model_type, spec.config, spec.pool)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map int [B, L] ids and mask to pooled [B, out_width] and token features [B, L, W]."""
        output = self.model(input_ids=ids.long(), attention_mask=mask.long() if self.masks else None)
        tokens = output.last_hidden_state
        match self.pool:
            case "cls":
                return tokens[:, 0], tokens
            case "mean":
                return masked_mean(tokens, mask), tokens
        return output.pooler_output, tokens


def build_encoder(families: Mapping[str, Family], model_type: str, config: Mapping[str, Any], pool: Pool) -> nn.Module:
    """Build an encoder of transformers with random weights.

    Raises:
        ConfigError: no encoder of this kind is known, or its settings do not fit.
        DmedgeError: transformers is not installed.
    """
    if model_type not in families or pool not in get_args(Pool):
        raise ConfigError(f"model_type {model_type!r}, pool {pool!r}; expected one of {', '.join(families)}")
    family = families[model_type]
    with quietly() as transformers:
        encoder = getattr(transformers, family.model)
        options = {"add_pooling_layer": pool == "pooler"} if family.has_optional_pooler else {}
        strict = require("huggingface_hub.errors", "train").StrictDataclassError
        try:
            model: nn.Module = encoder(encoder.config_class.from_dict(dict(config)), **options)
        except (TypeError, ValueError, KeyError, strict) as error:
            raise ConfigError(f"{family.model} cannot be built: {error}; import the model again") from error
        rewrite_(model)
    return model


def recompute_(tower: nn.Module, enabled: bool) -> None:
    """Switch gradient checkpointing on or off: activations are computed again in the backward pass.

    It works in training mode only, on towers of this module.

    Raises:
        ConfigError: the encoder does not support it.
    """
    assert isinstance(tower, (HfImageTower, HfTextTower))
    model: Any = tower.model
    kind = (
        "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    )  # as releases before call it
    if not enabled:
        getattr(model, f"{kind}_checkpointing_disable")()
        return
    try:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"{type(model).__name__}: {error}; set gradient checkpointing to false") from error


def spec_table(spec: ImageSpec | TextSpec) -> dict[str, object]:
    """A spec as the plain mapping that `ModelConfig` and its JSON hold."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(spec).items()}


@contextmanager
def quietly() -> Iterator[Any]:
    """The package transformers, with what it and torchao log while they are imported and load held back.

    Raises:
        DmedgeError: it is not installed.
    """
    noisy = [logging.getLogger(name) for name in ("torch", "torchao")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        transformers = require("transformers", "train")
        messages = transformers.utils.logging
        verbosity, has_bar = messages.get_verbosity(), messages.is_progress_bar_enabled()
        messages.set_verbosity_error()
        messages.disable_progress_bar()
        try:
            yield transformers
        finally:
            messages.set_verbosity(verbosity)
            if has_bar:
                messages.enable_progress_bar()
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
