"""The quantization plan: a scheme for every module, by its type, before any number is touched."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from dmedge.config import near_match
from dmedge.errors import ConfigError
from dmedge.model.dual import DualEncoder
from dmedge.model.image import ConvNet, ConvNorm
from dmedge.model.nibbles import GROUP
from dmedge.model.quantized import Scheme

# Dynamic ranges cost a transformer nothing and need no calibration; a convolution is only fast
# when its activations stay int8 from one layer to the next.
SCHEMES: Mapping[type[nn.Module], Scheme] = {
    nn.Embedding: "int8_rows",
    nn.Linear: "int8_dynamic",
    nn.Conv2d: "int8_static",
}


class ConvSite(NamedTuple):
    """A convolution, the point that fixes its input, and the points that its output runs into."""

    input_point: str
    output_points: tuple[str, ...]


def plan_precision(
    model: DualEncoder, keep: Sequence[str] = (), *, int4: bool = False, keep_int8: Sequence[str] = ()
) -> dict[str, Scheme]:
    """Choose the scheme of every embedding, linear and convolution, and of the activation points.

    Args:
        model: with batch normalisation folded.
        keep: modules that stay float32, with all that lies below them.
        int4: give linears 4-bit weights where their inputs divide into groups; the others stay int8.
        keep_int8: modules that stay int8 all the same.

    Raises:
        ConfigError: a kept module does not exist, or holds nothing that would be quantized.
    """
    plan: dict[str, Scheme] = {
        name: SCHEMES[type(module)] for name, module in model.named_modules() if type(module) in SCHEMES
    }
    if int4:
        spared = {name for kept in keep_int8 for name in _some_below(kept, plan, "keep_int8")}
        plan |= {
            name: "int4_groups"
            for name, scheme in plan.items()
            if name not in spared and _takes_int4(model.get_submodule(name), scheme)
        }
    sites = conv_sites(model)
    plan |= {name: "float32" for name, scheme in plan.items() if scheme == "int8_static" and name not in sites}
    for kept in keep:
        plan |= dict.fromkeys(_some_below(kept, plan, "keep"), "float32")
    for name, site in sites.items():
        if plan[name] == "int8_static":
            plan |= dict.fromkeys((site.input_point, *site.output_points), "int8_static")
    return plan


def below(prefix: str, names: Iterable[str]) -> list[str]:
    """The modules that a name stands for: its own, and all below it."""
    return [name for name in names if name == prefix or name.startswith(f"{prefix}.")]


def _some_below(kept: str, plan: Mapping[str, Scheme], setting: str) -> list[str]:
    found = below(kept, plan)
    if not found:
        raise ConfigError(f"{setting}: no module {kept!r} with weights{near_match(kept, _prefixes(plan))}")
    return found


def _takes_int4(module: nn.Module, scheme: Scheme) -> bool:
    return scheme == "int8_dynamic" and isinstance(module, nn.Linear) and module.in_features % GROUP == 0


def conv_sites(model: DualEncoder) -> dict[str, ConvSite]:
    """Where each convolution of a `ConvNet` stands between activation points; no other tower has such points."""
    if not isinstance(model.image, ConvNet):
        return {}
    sites = {"image.stem.conv": ConvSite("image.input_point", ("image.stem_point",))}
    before = "image.stem_point"
    for number, block in enumerate(model.image.blocks):
        name = f"image.blocks.{number}"
        after = f"{name}.out_point"
        sites[f"{name}.first.conv"] = ConvSite(before, (f"{name}.first_point",))
        sites[f"{name}.second.conv"] = ConvSite(f"{name}.first_point", (f"{name}.second_point", after))
        if isinstance(block.skip, ConvNorm):  # an identity keeps the range that it was given
            sites[f"{name}.skip.conv"] = ConvSite(before, (f"{name}.skip_point", after))
        before = after
    return sites


def _prefixes(names: Mapping[str, Scheme]) -> list[str]:
    parts = [name.split(".") for name in names]
    return sorted({".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)})
