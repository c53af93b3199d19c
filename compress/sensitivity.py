"""Which part of a model rounding hurts most: the error of the embeddings when only that part is quantized."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmedge.compress.budget import Kept
from dmedge.compress.calibration import CalibrationSet
from dmedge.compress.config import CompressConfig
from dmedge.compress.int8 import Fits, quantize_checkpoint
from dmedge.compress.plan import plan_precision
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.costs import TEXT_LENGTH
from dmedge.model.dual import DualEncoder

LARGEST_SHARE = 1 / 6  # of the modules, in one group
BATCH = 64


@dataclass(frozen=True, slots=True)
class Sides:
    """Modules of a plan that the embedding of an image, and that of a text, runs through; a head may be in both."""

    image: tuple[str, ...]
    text: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them once."""
        return tuple(dict.fromkeys((*self.image, *self.text)))


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Mean of 1 - cosine between embeddings before and after, with only this group in int8, or with int4 in it."""

    group: str
    scheme: Literal["int8", "int4"]
    image_error: float
    text_error: float

    @property
    def error(self) -> float:
        """Of both sides together."""
        return self.image_error + self.text_error

    def row(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "error": self.error}


@torch.inference_mode()
def embedding_sides(model: DualEncoder, names: Iterable[str]) -> Sides:
    """Run both towers once and note which of the modules `names` take part; the fusion takes part in neither."""
    names = tuple(names)
    return Sides(_called(model, names, lambda: run_image(model)), _called(model, names, lambda: run_text(model)))


def run_image(model: DualEncoder) -> Tensor:
    """Embed one blank picture."""
    size = model.config.image_size
    return model.encode_image(torch.zeros(1, size, size, 3, dtype=torch.uint8))[0]


def run_text(model: DualEncoder) -> Tensor:
    """Embed one text of common length."""
    ids = torch.ones(1, min(TEXT_LENGTH, model.config.context_length), dtype=torch.int32)
    return model.encode_text(ids, torch.ones_like(ids))[0]


def _called(model: DualEncoder, names: Iterable[str], run: Callable[[], object]) -> tuple[str, ...]:
    called: dict[str, None] = {}

    def noter(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, inputs: called.setdefault(name)

    hooks = [model.get_submodule(name).register_forward_pre_hook(noter(name)) for name in names]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(called)


def group_modules(names: Sequence[str]) -> tuple[str, ...]:
    """Prefixes that part the modules into groups: the largest is split until none has a sixth of them all."""
    members: dict[str, list[str]] = {"": list(names)}
    while True:
        largest = max(members, key=lambda prefix: (len(members[prefix]), prefix))
        whole = members[largest]
        if largest in whole or (largest and len(whole) <= len(names) * LARGEST_SHARE):
            return tuple(members)
        del members[largest]
        for name in whole:
            members.setdefault(_child(largest, name), []).append(name)


def _child(prefix: str, name: str) -> str:
    depth = prefix.count(".") + 2 if prefix else 1
    return ".".join(name.split(".")[:depth])


def measure_sensitivity(
    checkpoint: Checkpoint,
    config: CompressConfig,
    calibration: CalibrationSet,
    groups: Sequence[str],
    advance: Callable[[], object] = lambda: None,
    fits: Fits | None = None,
) -> tuple[Sensitivity, ...]:
    """Quantize each group alone and compare embeddings of the calibration data; the most sensitive comes first.

    Args:
        checkpoint: float.
        config: with `int4` the linears of each group get that; what it keeps stays so in all of them.
        groups: prefixes of module names.
        advance: told after every group.
        fits: from `fit_int4`, where they are known.
    """
    before = _embeddings(checkpoint.model, checkpoint.tokenizer, calibration)
    found = []
    for group in groups:
        alone = replace(config, keep=(*config.keep, *_all_but(checkpoint, group)))
        quantized = quantize_checkpoint(checkpoint, alone, calibration, fits=fits)
        after = _embeddings(quantized.checkpoint.model, checkpoint.tokenizer, calibration)
        errors = (_error(*pair) for pair in zip(before, after, strict=True))
        found.append(Sensitivity(group, "int4" if config.int4 else "int8", *errors))
        advance()
    return tuple(sorted(found, key=lambda one: (-one.error, one.group)))


def _all_but(checkpoint: Checkpoint, group: str) -> tuple[str, ...]:
    return tuple(
        name
        for name in plan_precision(checkpoint.model)
        if not name.endswith("_point") and name != group and not name.startswith(f"{group}.")
    )


@torch.inference_mode()
def _embeddings(model: DualEncoder, tokenizer: AnyTokenizer, calibration: CalibrationSet) -> Sequence[Tensor]:
    ids, mask = (torch.from_numpy(array) for array in tokenizer.batch(calibration.texts))
    images = torch.cat([model.encode_image(torch.from_numpy(part))[0] for part in _batches(calibration)])
    return images, model.encode_text(ids, mask)[0]


def _batches(calibration: CalibrationSet) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(calibration.pixels), BATCH):
        yield calibration.pixels[start : start + BATCH]


def _error(before: Tensor, after: Tensor) -> float:
    """1 - cosine of unit-norm rows, from their distance, which stays exact where they are close."""
    return float((before - after).double().square().sum(-1).mean() / 2)


def cumulative_variants(sensitivity: Sequence[Sensitivity]) -> list[Kept]:
    """What each plan to try keeps: nothing, then one more group each time, the most sensitive first.

    Groups with int4 are given back to int8 one by one, and only when all of them are that, groups to float32. The
    last of these is never given back: that plan would quantize nothing that the metric sees.
    """
    eights = tuple(one.group for one in sensitivity if one.scheme == "int4")
    floats = tuple(one.group for one in sensitivity if one.scheme == "int8")
    return [
        *(Kept(int8=eights[:count]) for count in range(len(eights))),
        *(Kept(floats[:count], eights) for count in range(len(floats))),
    ]
