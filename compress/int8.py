"""From a float checkpoint to an int8 one, or one with int4 in it: smooth, plan, calibrate, round."""

import logging
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmedge.compress.calibration import CalibrationSet
from dmedge.compress.config import CompressConfig
from dmedge.compress.gptq import fit_groups
from dmedge.compress.observe import observe_ranges
from dmedge.compress.plan import plan_precision
from dmedge.compress.quantize import quantize_, sqnr_db
from dmedge.compress.smooth import smooth_
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.model.quantized import Range, Scheme

logger = logging.getLogger(__name__)
BATCH = 64

Fits = Mapping[str, tuple[Tensor, Tensor]]  # name of a linear -> its codes and scales, see `fit_groups`
Tune = Callable[[DualEncoder, Mapping[str, Scheme], Mapping[str, Range]], DualEncoder]


@dataclass(frozen=True, eq=False)
class Quantized:
    """A checkpoint whose plan has been carried out."""

    checkpoint: Checkpoint
    plan: Mapping[str, Scheme]
    smoothed: Mapping[str, float]  # LayerNorm -> dB gained


def quantize_checkpoint(
    checkpoint: Checkpoint,
    config: CompressConfig,
    calibration: CalibrationSet,
    tune: Tune | None = None,
    fits: Fits | None = None,
) -> Quantized:
    """Plan, calibrate and round; `checkpoint` itself is left as it was.

    Args:
        tune: changes the weights before they are rounded, knowing the plan and the ranges.
        fits: from `fit_int4`, where they are known from before.

    Raises:
        ConfigError: `config.keep` names no module of the model.
        DmedgeError: int4 is asked for, and neural-compressor is not installed.
    """
    model = deepcopy(checkpoint.model)
    fold_batch_norm_(model)
    plan = plan_precision(model, config.keep, int4=config.int4, keep_int8=config.keep_int8)
    dynamic = [name for name, scheme in plan.items() if scheme == "int8_dynamic"]
    smoothed = {}
    if config.smooth:
        smoothed = smooth_(model, lambda whole: _run(whole, checkpoint.tokenizer, calibration), dynamic)
    points = [name for name in plan if name.endswith("_point")]
    logger.info("calibrating %d activations with %d items", len(points), len(calibration.items))
    ranges = observe_ranges(model, points, _batches(calibration))
    if tune is not None:
        model = tune(model, plan, ranges)
    # A model that was trained with its weights rounded to the nearest codes is rounded just so.
    linears = [name for name, scheme in plan.items() if scheme == "int4_groups" and tune is None]
    if fits is None:
        fits = fit_groups(model, linears, checkpoint.tokenizer, calibration) if linears else {}
    groups = {name: fits[name] for name in linears}
    quantize_(model, plan, ranges, groups)
    rounded = replace(checkpoint, model=model.eval().requires_grad_(False), quantization=plan)
    return Quantized(rounded, plan, smoothed)


def fit_int4(checkpoint: Checkpoint, config: CompressConfig, calibration: CalibrationSet) -> Fits | None:
    """The 4-bit codes of every linear that may have some, whatever the plan gives to the others.

    A fit knows the inputs of the float model alone, so it is the same in every plan; but with `smooth`, which
    changes the model by the plan, there is none before.
    """
    if not config.int4 or config.smooth:
        return None
    model = deepcopy(checkpoint.model)
    fold_batch_norm_(model)
    plan = plan_precision(model, int4=True)
    linears = [name for name, scheme in plan.items() if scheme == "int4_groups"]
    return fit_groups(model, linears, checkpoint.tokenizer, calibration)


def _run(model: DualEncoder, tokenizer: AnyTokenizer, calibration: CalibrationSet) -> None:
    patches = torch.cat([model.encode_image(pixels)[1] for pixels in _batches(calibration)])
    ids, mask = (torch.from_numpy(array) for array in tokenizer.batch(calibration.texts))
    _, tokens = model.encode_text(ids, mask)
    if model.fusion is not None:
        model.fuse(patches, tokens, mask)


def _batches(calibration: CalibrationSet) -> Iterator[Tensor]:
    for start in range(0, len(calibration.pixels), BATCH):
        yield torch.from_numpy(calibration.pixels[start : start + BATCH])


@torch.inference_mode()
def fidelity(before: Checkpoint, after: Checkpoint, calibration: CalibrationSet) -> dict[str, object]:
    """How much is int8, and how near the embeddings of the calibration data stayed."""
    ids, mask = (torch.from_numpy(array) for array in before.tokenizer.batch(calibration.texts))
    models = (before.model, after.model)
    images = [torch.cat([model.encode_image(pixels)[0] for pixels in _batches(calibration)]) for model in models]
    texts = [model.encode_text(ids, mask)[0] for model in models]
    costs = count_costs(after.model)
    return {
        "parameter_share_int8": round(costs.parameter_share_int8, 4),
        "parameter_share_int4": round(costs.parameter_share_int4, 4),
        "mac_share_int8": round(costs.mac_share_int8, 4),
        "image_sqnr_db": round(sqnr_db(*images), 2),
        "text_sqnr_db": round(sqnr_db(*texts), 2),
        "calibration_items": len(calibration.items),
        "calibration_languages": len(calibration.languages),
    }
