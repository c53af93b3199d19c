"""The `train` stage: from data to an fp32 checkpoint."""

import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from dmedge.artifact import Artifact, load_artifact, new_artifact
from dmedge.data.content import TRAINED_ON, write_ids
from dmedge.errors import ArtifactError, ConfigError
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, save_checkpoint
from dmedge.training.config import TrainConfig
from dmedge.training.engine import pick_precision
from dmedge.training.fit import Fitted, fitted, load_materials, new_accelerator
from dmedge.training.places import MARK, check_places, claim, log_folder, steps_folder, unclaimed_on_error

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
        ArtifactError: `out` exists, or a file stands where a folder of the run goes.
        ConfigError: `OUT.steps` belongs to a run with other settings; or there is no run to continue.
        DataError: the data cannot be read.
        DmedgeError: the loss stopped being a number.
    """
    if out.exists():
        raise ArtifactError(f"{out}: exists already; expected a new directory; choose another --out or remove it")
    check_places(out)
    folder = steps_folder(out)
    if must_resume and not (folder / MARK).exists():
        raise ConfigError(f"{folder}: no run to continue; expected one that was stopped; leave out --resume to begin")
    accelerator = new_accelerator(config)
    with accelerator.main_process_first():  # the others find the vocabulary made
        if accelerator.is_main_process:
            claim(folder, {name: value for name, value in asdict(config).items() if name not in CHANGEABLE})
        with unclaimed_on_error(folder):
            materials = load_materials(config, folder)
    with fitted(materials, config, accelerator=accelerator, folder=folder, log=log_folder(out)) as result:
        if accelerator.is_main_process:
            _write(result, out)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(folder)
    return load_artifact(out, kind="checkpoint")


def _write(result: Fitted, out: Path) -> None:
    run, materials, model = result.run, result.materials, result.model
    config = run.config
    checkpoint = Checkpoint(model, materials.tokenizer, materials.preprocess, materials.labels, materials.answers)
    with new_artifact(out) as draft:
        save_checkpoint(draft.path, checkpoint, dtype=getattr(torch, config.storage))
        if result.shown is not None:
            write_ids(draft.path / TRAINED_ON, result.shown)
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
                "sharpened": dict(result.sharpened),
                **materials.facts,
            },
        )
