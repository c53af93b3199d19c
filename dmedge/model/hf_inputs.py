"""Example inputs of imported towers, made by optimum's normalized configs and dummy-input generators."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dmedge.errors import ConfigError, require
from dmedge.model.config import ModelConfig
from dmedge.model.hf import IMAGE_FAMILIES, TEXT_FAMILIES, quietly

TASK = "feature-extraction"
LENGTH = 16  # tokens, where the encoder takes any number of them


def normalized_config(model_type: str, config: Any) -> Any:
    """Settings of an encoder under the names that all encoders share, e.g. `hidden_size` and `vocab_size`.

    Args:
        model_type: of an image or a text encoder that `dmedge.model.hf` knows.
        config: of transformers.

    Raises:
        DmedgeError: optimum is not installed.
    """
    optimum = require("optimum.utils", "train")
    try:
        return optimum.NormalizedConfigManager.get_normalized_config_class(model_type)(config)
    except KeyError:  # optimum lists CLIP, SigLIP and MobileViT as missing: their names are the common ones
        kind = optimum.NormalizedVisionConfig if model_type in IMAGE_FAMILIES else optimum.NormalizedTextConfig
        return kind(config)


def example_pixels(config: ModelConfig, *, batch: int = 2, seed: int = 0) -> Tensor:
    """Random uint8 [batch, H, W, 3] pixels for an imported image tower.

    Raises:
        ConfigError: the image tower is not an imported one.
    """
    spec = _spec(config.image_hf, "image")
    encoder = encoder_config(IMAGE_FAMILIES[spec["model_type"]].model, spec["config"])
    encoder.image_size = config.image_size  # DINOv2 was trained at another size than it is fed
    make = require("optimum.utils", "train").DummyVisionInputGenerator
    with _seeded(seed):
        generator = make(TASK, normalized_config(spec["model_type"], encoder), batch_size=batch)
        pixels: Tensor = generator.generate("pixel_values")
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def example_text(
    config: ModelConfig, *, batch: int = 2, length: int | None = None, seed: int = 0
) -> tuple[Tensor, ...]:
    """Random int32 [batch, length] ids and mask for an imported text tower.

    Args:
        config: of the model.
        batch: number of texts.
        length: of each [default: a few tokens; the whole context where the tower takes no mask].
        seed: of the draw.

    Raises:
        ConfigError: the text tower is not an imported one.
    """
    spec = _spec(config.text_hf, "text")
    if length is None:
        length = min(LENGTH, config.context_length) if spec.get("masks", True) else config.context_length
    encoder = encoder_config(TEXT_FAMILIES[spec["model_type"]].model, spec["config"])
    make = require("optimum.utils", "train").DummyTextInputGenerator
    with _seeded(seed):
        generator = make(TASK, normalized_config(spec["model_type"], encoder), batch_size=batch, sequence_length=length)
        ids, mask = (generator.generate(name, int_dtype="int32") for name in ("input_ids", "attention_mask"))
    return ids, mask if spec.get("masks", True) else torch.ones_like(mask)


def example_inputs(
    config: ModelConfig, program: str, *, batch: int = 2, length: int | None = None
) -> tuple[Tensor, ...]:
    """Inputs of "encode_image" or "encode_text", for whoever traces or times an imported tower.

    Raises:
        ConfigError: the tower of that program is not an imported one, or there is no such program.
    """
    if program == "encode_image":
        return (example_pixels(config, batch=batch),)
    if program == "encode_text":
        return example_text(config, batch=batch, length=length)
    raise ConfigError(f"no example inputs of {program!r}; expected encode_image or encode_text")


def encoder_config(model: str, config: Mapping[str, Any]) -> Any:
    """Settings of an encoder as transformers' own object."""
    with quietly() as transformers:
        return getattr(transformers, model).config_class.from_dict(dict(config))


def _spec(table: Mapping[str, Any], tower: str) -> Mapping[str, Any]:
    if not table:
        raise ConfigError(f"the {tower} tower is dmedge's own; expected an imported one, for optimum's example inputs")
    return table


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw the same numbers every time, and leave the generators of the caller as they were."""
    state = random.getstate()
    random.seed(seed)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(state)
