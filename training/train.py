"""The `train` stage: from data to an fp32 checkpoint."""

import hashlib
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from dmedge.artifact import Artifact, load_artifact, new_artifact
from dmedge.errors import ArtifactError, ConfigError
from dmedge.logs import logger as root_logger
from dmedge.manifest import canonical_json
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, save_checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.training.config import TrainConfig
from dmedge.training.emoji_materials import emoji_materials
from dmedge.training.engine import make_accelerator, pick_precision
from dmedge.training.fusion import train_fusion
from dmedge.training.loop import Run, averaged, load_best_, new_run, run_steps
from dmedge.training.materials import Materials
from dmedge.training.record_materials import record_materials
from dmedge.training.run_log import RunLog
from dmedge.training.source import BatchSource
from dmedge.training.summary import summarise

logger = logging.getLogger(__name__)

EMOJI = "emoji"  # the data that ships with dmedge

# What may differ between the start of a run and its continuation.
CHANGEABLE = ("steps", "epochs", "fusion_steps", "storage", "workers", "save_every", "keep_last", "trackers")


def train(config: TrainConfig, out: Path, *, must_resume: bool = False) -> Artifact:
    """Train a dual encoder and write it as a checkpoint.

    The run works in `OUT.steps`, beside `out`, and continues from there after a kill when it is
    started again with the same settings; the folder goes when the checkpoint stands. What there is to
    read of it, metrics, curve and summary, stays in `OUT.log`. Under torchrun every process calls it.

    Args:
        must_resume: continue, and never begin.

    Raises:
        ArtifactError: `out` exists.
        ConfigError: `OUT.steps` belongs to a run with other settings; or there is no run to continue.
        DataError: the data cannot be read.
        DmedgeError: the loss stopped being a number.
    """
    if out.exists():
        raise ArtifactError(f"{out}: exists already; expected a new directory; choose another --out or remove it")
    folder = out.with_name(f"{out.name}.steps")
    if must_resume and not (folder / "settings.sha256").exists():
        raise ConfigError(f"{folder}: no run to continue; expected one that was stopped; leave out --resume to begin")
    AcceleratorState._reset_state(reset_partial_state=False)  # a run before this one may have had another precision
    accelerator = make_accelerator(config)
    if not accelerator.is_main_process:
        root_logger.setLevel(logging.ERROR)
    with accelerator.main_process_first():  # the others find the vocabulary made
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            _claim(folder, config)
        materials = (emoji_materials if config.data == EMOJI else record_materials)(config, folder)
    steps = total_steps(config, materials.source)
    run = new_run(
        materials.model,
        materials.source,
        materials.evaluate,
        config=config,
        steps=steps,
        accelerator=accelerator,
        folder=folder,
    )
    if run.step:
        logger.info("continuing %s at step %d of %d", folder, run.step, steps)
    with RunLog(log_folder(out), accelerator, config, step=run.step) as log:
        run_steps(run, log)
        load_best_(run)
        with averaged(run) as model:
            train_fusion(model, materials.fusion_loss, config)
            sharpened = materials.sharpen(model)
            summary = summarise(
                out.name,
                run.meter,
                model,
                log.rows,
                accelerator=accelerator,
                images_per_epoch=materials.source.images_per_epoch,
                metric=config.early_stop,
            )
            if accelerator.is_main_process:
                _write(run, materials, model, sharpened, out)
        log.close(summary)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(folder)
    return load_artifact(out, kind="checkpoint")


def log_folder(out: Path) -> Path:
    """Where the metrics, the curve and the summary of the run that writes `out` stay."""
    return out.with_name(f"{out.name}.log")


def total_steps(config: TrainConfig, source: BatchSource) -> int:
    """Steps of the run: as said, or as many as the epochs take."""
    if not config.epochs:
        return config.steps
    return max(1, math.ceil(config.epochs * source.images_per_epoch / config.batch_size))


def _claim(folder: Path, config: TrainConfig) -> None:
    """Mark `folder` as that of a run with these settings, those aside that may still change.

    Raises:
        ConfigError: it is marked by a run with other settings.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in CHANGEABLE}
    fingerprint = hashlib.sha256(canonical_json(settings)).hexdigest()
    mark = folder / "settings.sha256"
    if mark.exists() and mark.read_text(encoding="utf-8") != fingerprint:
        raise ConfigError(
            f"{folder}: belongs to a run with other settings; expected the settings of this run; "
            "remove it, or choose another --out"
        )
    mark.write_text(fingerprint, encoding="utf-8")


def _write(run: Run, materials: Materials, model: DualEncoder, sharpened: Mapping[str, float], out: Path) -> None:
    config = run.config
    checkpoint = Checkpoint(model, materials.tokenizer, materials.preprocess, materials.labels, materials.answers)
    with new_artifact(out) as draft:
        save_checkpoint(draft.path, checkpoint, dtype=getattr(torch, config.storage))
        draft.finish(
            kind="checkpoint",
            stage="train",
            config=asdict(config),
            parents=materials.parents,
            programs=checkpoint_programs(model.config),
            precision={"*": config.storage},
            languages=materials.languages,
            summary={
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "autocast": pick_precision(config),
                "steps": run.step,
                "validation": run.history,
                "sharpened": dict(sharpened),
                **materials.facts,
            },
        )
