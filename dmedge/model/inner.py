"""The units inside a module that nothing outside of it sees: what can be taken out without touching a neighbour.

Channels between the two convolutions of a residual block, hidden units of a feed-forward, heads of an
attention: some layers make them, one layer reads them. A model that lost some is described by
`ModelConfig.inner_widths`; its embedding, patches and tokens keep their shapes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmedge.config import near_match
from dmedge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class InnerUnits:
    """Where the units of one module are made and read."""

    producers: tuple[str, ...]  # modules whose outputs they are
    consumer: str  # the module whose inputs they are
    size: int  # numbers in a unit: 1, or those of a head
    count: int


class _Layout(NamedTuple):
    """Names below a module that has inner units."""

    producers: tuple[str, ...]
    consumer: str
    size: str = ""  # the attribute that holds the numbers per unit; empty for 1


# By the names of their parts, own modules first, then those of transformers.
_LAYOUTS = (
    _Layout(("first.conv", "first.norm"), "second.conv"),
    _Layout(("up",), "down"),
    _Layout(("query", "key", "value"), "out", "head_dim"),
    _Layout(("fc1",), "fc2"),
    _Layout(("intermediate.dense",), "output.dense"),
    _Layout(("q_proj", "k_proj", "v_proj"), "out_proj", "head_dim"),
    _Layout(("self.query", "self.key", "self.value"), "output.dense", "self.attention_head_size"),
)


def inner_units(model: nn.Module) -> dict[str, InnerUnits]:
    """The inner units of every module that has some, by its name."""
    modules = dict(model.named_modules())
    return {name: units for name in modules for units in _units_of(name, modules)}


def _units_of(name: str, modules: Mapping[str, nn.Module]) -> Iterator[InnerUnits]:
    prefix = f"{name}." if name else ""
    for layout in _LAYOUTS:
        producers = tuple(f"{prefix}{part}" for part in layout.producers)
        consumer = modules.get(f"{prefix}{layout.consumer}")
        if any(part not in modules for part in producers) or not isinstance(consumer, (nn.Linear, nn.Conv2d)):
            continue
        inputs = consumer.weight.shape[1]
        size = int(_attribute(modules[name], layout.size)) if layout.size else 1
        yield InnerUnits(producers, f"{prefix}{layout.consumer}", size, inputs // size)
        return


def _attribute(module: nn.Module, path: str) -> int:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)  # type: ignore[no-any-return]


@torch.no_grad()
def keep_units_(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Take out of `model` all inner units but those kept.

    Args:
        model: changed in place.
        kept: module -> int64 [n] numbers of its units, in the order that they shall have.
    """
    modules, units = dict(model.named_modules()), inner_units(model)
    for name, numbers in kept.items():
        own = units[name]
        rows = (numbers[:, None] * own.size + torch.arange(own.size)).flatten()
        for part in own.producers:
            _keep_outputs_(modules[part], rows)
        _keep_inputs_(modules[own.consumer], rows)
        if hasattr(modules[name], "heads"):
            modules[name].heads = len(numbers)


def narrow_(model: nn.Module, widths: Mapping[str, int]) -> None:
    """Give the modules named in `widths` so many inner units, the first ones; weights are loaded afterwards.

    Raises:
        ConfigError: a module has no inner units, or not as many.
    """
    units = inner_units(model)
    for name, width in widths.items():
        if name not in units:
            raise ConfigError(f"inner_widths: no module {name!r} with units inside{near_match(name, list(units))}")
        if not 1 <= width <= units[name].count:
            raise ConfigError(f"inner_widths: {name} = {width}; expected 1 to {units[name].count}")
    keep_units_(model, {name: torch.arange(width) for name, width in widths.items()})


def _keep_outputs_(module: nn.Module, rows: Tensor) -> None:
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is not None and tensor.dim():
                _replace_(module, name, tensor[rows])
    for attribute in ("out_features", "out_channels", "num_features"):
        if hasattr(module, attribute):
            setattr(module, attribute, len(rows))


def _keep_inputs_(module: nn.Module, rows: Tensor) -> None:
    _replace_(module, "weight", module.get_parameter("weight")[:, rows])
    setattr(module, "in_channels" if isinstance(module, nn.Conv2d) else "in_features", len(rows))


def _replace_(module: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(tensor.clone(), requires_grad=old.requires_grad))
    else:
        setattr(module, name, tensor.clone())
