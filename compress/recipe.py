"""The `compress` stage: from a float checkpoint to a smaller one."""

import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from dmedge.artifact import Artifact, new_artifact
from dmedge.compress.calibration import CalibrationSet, draw_calibration
from dmedge.compress.config import CompressConfig
from dmedge.compress.corpus import choose_languages
from dmedge.compress.observe import observe_ranges
from dmedge.compress.plan import plan_precision
from dmedge.compress.quantize import quantize_, sqnr_db
from dmedge.compress.trim import trim_languages
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.errors import ArtifactError
from dmedge.model.checkpoint import WEIGHTS, Checkpoint, checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.model.quantized import Scheme

__all__ = ["CompressConfig", "compress_artifact", "quantize_checkpoint"]

logger = logging.getLogger(__name__)
CALIBRATION, VOCABULARY = "calibration.json", "vocabulary.json"
STORED = {"float16": torch.float16}  # of a float checkpoint on disk; float32 otherwise
BATCH = 64


def compress_artifact(parent: Artifact, config: CompressConfig, out: Path) -> Artifact:
    """Do to the checkpoint `parent` what `config` asks for, and write the result as a checkpoint of its own.

    Raises:
        ArtifactError: `out` exists, or `parent` is no checkpoint or is quantized already.
        ConfigError: `config` names a module or a language that does not exist, or an imported vocabulary is to be
            trimmed.
        DataError: the data cannot be used.
    """
    with new_artifact(out) as draft, TemporaryDirectory() as scratch:
        checkpoint = load_checkpoint(parent)
        if checkpoint.quantization is not None:
            raise ArtifactError(
                f"{parent.root}: is quantized already; expected a float checkpoint; compress the one it was made from"
            )
        languages, precision = parent.manifest.languages, dict(parent.manifest.precision)
        ledger: dict[str, object] = {}
        if config.languages:
            if VOCABULARY in parent.manifest.files:  # trimmed before: what was given up does not come back
                choose_languages(config.languages, languages)
            trimmed = trim_languages(checkpoint, config, Path(scratch))
            trimmed.write(draft.path / VOCABULARY)
            checkpoint, languages, ledger = trimmed.checkpoint, trimmed.languages, trimmed.summary()
        if config.int8:
            calibration = draw_calibration(config, checkpoint.preprocess)
            calibration.write(draft.path / CALIBRATION)
            before = checkpoint
            checkpoint, plan = quantize_checkpoint(before, config, calibration)
            precision = dict(plan)
            ledger |= _ledger(before.model, checkpoint.model, before.tokenizer, calibration)
        save_checkpoint(draft.path, checkpoint, dtype=STORED.get(precision.get("*", ""), torch.float32))
        return draft.finish(
            kind="checkpoint",
            stage="compress",
            config=asdict(config),
            parents={"parent": parent.digest},
            programs=checkpoint_programs(checkpoint.model.config),
            precision=precision,
            languages=languages,
            summary={
                "weight_bytes": (draft.path / WEIGHTS).stat().st_size,
                "weight_bytes_parent": parent.manifest.files[WEIGHTS].size_bytes,
                "parameters": count_costs(checkpoint.model).parameters,
                **ledger,
            },
        )


def quantize_checkpoint(
    checkpoint: Checkpoint, config: CompressConfig, calibration: CalibrationSet
) -> tuple[Checkpoint, dict[str, Scheme]]:
    """Plan, calibrate and round; `checkpoint` itself is left as it was.

    Raises:
        ConfigError: `config.keep` names no module of the model.
    """
    model = deepcopy(checkpoint.model)
    fold_batch_norm_(model)
    plan = plan_precision(model, config.keep)
    points = [name for name in plan if name.endswith("_point")]
    logger.info("calibrating %d activations with %d items", len(points), len(calibration.items))
    ranges = observe_ranges(model, points, _batches(calibration))
    quantize_(model, plan, ranges)
    return replace(checkpoint, model=model.eval().requires_grad_(False), quantization=plan), plan


def _batches(calibration: CalibrationSet) -> Iterator[Tensor]:
    for start in range(0, len(calibration.pixels), BATCH):
        yield torch.from_numpy(calibration.pixels[start : start + BATCH])


@torch.inference_mode()
def _ledger(
    before: DualEncoder, after: DualEncoder, tokenizer: AnyTokenizer, calibration: CalibrationSet
) -> dict[str, object]:
    """What it saved and what it cost, on the calibration data."""
    ids, mask = (torch.from_numpy(array) for array in tokenizer.batch(calibration.texts))
    images = [
        torch.cat([model.encode_image(pixels)[0] for pixels in _batches(calibration)]) for model in (before, after)
    ]
    texts = [model.encode_text(ids, mask)[0] for model in (before, after)]
    costs = count_costs(after)
    return {
        "parameter_share_int8": round(costs.parameter_share_int8, 4),
        "mac_share_int8": round(costs.mac_share_int8, 4),
        "image_sqnr_db": round(sqnr_db(*images), 2),
        "text_sqnr_db": round(sqnr_db(*texts), 2),
        "calibration_items": len(calibration.items),
        "calibration_languages": len(calibration.languages),
    }
