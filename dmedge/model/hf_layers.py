"""The layers of an imported encoder: how many there are, where they stand, and its description with some of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dmedge.model.hf import IMAGE_FAMILIES, TEXT_FAMILIES, quietly

COUNT = "num_hidden_layers"  # of nearly all encoders; others translate it
STAGES = ("stage_names", "out_features", "out_indices")  # of backbones, which count the layers as well


def layer_count(spec: Mapping[str, Any]) -> int:
    """Equal layers of the encoder that a table describes; 0 where it has none, such as one of convolutions."""
    if not spec:
        return 0
    with quietly() as transformers:
        family = {**IMAGE_FAMILIES, **TEXT_FAMILIES}[spec["model_type"]]
        config = getattr(transformers, family.model).config_class.from_dict(dict(spec["config"]))
    return int(getattr(config, COUNT, 0))


def layers_prefix(tower: nn.Module, count: int) -> str:
    """The name of the list of these layers within their tower; it ends in a dot."""
    return next(
        f"{name}."
        for name, module in tower.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    )


def keep_layers(spec: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The table of the encoder with only the layers of these numbers."""
    count = layer_count(spec)
    config = {name: value for name, value in spec["config"].items() if name not in STAGES}
    for name, value in config.items():
        if isinstance(value, (list, tuple)) and len(value) == count:  # one entry for every layer
            config[name] = [value[number] for number in kept]
    key = next((name for name in (COUNT, "n_layers") if name in config), COUNT)
    return {**spec, "config": {**config, key: len(kept)}}
