"""A run from its materials to a trained model, whatever becomes of that: a checkpoint, or one stage of several."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from dmedge.data.content import Ids
from dmedge.logs import logger as root_logger
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.training.config import TrainConfig
from dmedge.training.distill import Distillation
from dmedge.training.emoji_materials import emoji_materials
from dmedge.training.engine import make_accelerator
from dmedge.training.fusion import train_fusion
from dmedge.training.loop import Run, averaged, load_best_, new_run, run_steps
from dmedge.training.materials import Materials
from dmedge.training.record_materials import record_materials
from dmedge.training.run_log import RunLog
from dmedge.training.shown import shown_ids
from dmedge.training.source import BatchSource
from dmedge.training.summary import summarise

logger = logging.getLogger(__name__)

EMOJI = "emoji"  # the data that ships with dmedge


@dataclass(frozen=True, eq=False)
class Fitted:
    """A run behind its last step, with the averaged weights in place."""

    run: Run
    materials: Materials
    model: DualEncoder
    sharpened: Mapping[str, float]
    shown: Ids | None  # of the pictures that it learned from; None for the embedded data


def new_accelerator(config: TrainConfig) -> Accelerator:
    """The processes of this run; all but the first are quiet.

    Raises:
        ConfigError: the precision or the batch does not fit what there is.
    """
    AcceleratorState._reset_state(reset_partial_state=False)  # a run before this one may have had another precision
    accelerator = make_accelerator(config)
    if not accelerator.is_main_process:
        root_logger.setLevel(logging.ERROR)
    return accelerator


def load_materials(config: TrainConfig, folder: Path, start: Checkpoint | None = None) -> Materials:
    """Data, vocabulary and model of a run; the model is that of `start`, where there is one.

    Raises:
        ConfigError: the settings do not fit the data.
        DataError: the data cannot be read.
    """
    return (emoji_materials if config.data == EMOJI else record_materials)(config, folder, start)


@contextmanager
def fitted(
    materials: Materials,
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    folder: Path,
    log: Path,
    distillation: Distillation | None = None,
) -> Iterator[Fitted]:
    """Train the towers, then the fusion, then choose how sharp the embeddings are.

    Args:
        materials: their model is trained in place.
        folder: holds the states that a run goes on from after a kill.
        log: holds metrics, curve and summary; the result is called after it.
        distillation: a teacher to learn from as well.

    Raises:
        ConfigError: the states in `folder` are of another run.
        DmedgeError: the loss stopped being a number.
    """
    steps = total_steps(config, materials.source)
    run = new_run(
        materials.model,
        materials.source,
        materials.evaluate,
        config=config,
        steps=steps,
        accelerator=accelerator,
        folder=folder,
        distillation=distillation,
    )
    if run.step:
        logger.info("continuing %s at step %d of %d", folder, run.step, steps)
    with RunLog(log, accelerator, config, step=run.step) as rows:
        run_steps(run, rows)
        load_best_(run)
        with averaged(run) as model:
            train_fusion(model, materials.fusion_loss, config)
            sharpened = materials.sharpen(model)
            summary = summarise(
                log.stem,
                run.meter,
                model,
                rows.rows,
                accelerator=accelerator,
                images_per_epoch=materials.source.images_per_epoch,
                metric=config.early_stop,
            )
            yield Fitted(run, materials, model, sharpened, shown_ids(materials.source))
        rows.close(summary)


def total_steps(config: TrainConfig, source: BatchSource) -> int:
    """Steps of the run: as said, or as many as the epochs take."""
    if not config.epochs:
        return config.steps
    return max(1, math.ceil(config.epochs * source.images_per_epoch / config.batch_size))
