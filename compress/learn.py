"""Learning from a teacher: what a student does from its start, and a pruned model to recover."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dmedge.compress.config import CompressConfig
from dmedge.data.content import Ids
from dmedge.data.records import DatasetConfig
from dmedge.model.checkpoint import Checkpoint
from dmedge.training.config import TrainConfig
from dmedge.training.distill import Distillation, Teacher
from dmedge.training.fit import fitted, load_materials, new_accelerator
from dmedge.training.places import claim, log_folder, steps_folder, unclaimed_on_error

WARMUP_SHARE = 0.05


def train_config(checkpoint: Checkpoint, config: CompressConfig) -> TrainConfig:
    """Settings of a training run that goes on with `checkpoint`, on the data that `config` names."""
    model, learn = checkpoint.model.config, config.learn
    is_emoji = config.data == "emoji"
    return TrainConfig(
        data="emoji" if is_emoji else "folder",
        dataset=DatasetConfig(path="" if is_emoji else config.data),
        seed=config.seed,
        steps=learn.steps,
        fusion_steps=0 if model.fusion == "none" else learn.fusion_steps,
        batch_size=learn.batch_size,
        texts_per_image=learn.texts_per_image,
        learning_rate=learn.learning_rate,
        warm_start=False,
        warmup_steps=round(WARMUP_SHARE * learn.steps),
        cooldown_share=0.7,
        ema_decay=0.99,
        languages=config.languages,
        name_share=0.75,
        text_noise=0.05,
        subword_sampling=0.1 if is_emoji else 0.0,
        augment=0.5,
        style_mixing=0.0,
        loss="siglip" if checkpoint.model.logit_bias is not None else "infonce",
        eval_every=max(1, learn.steps // 4),
        save_every=max(1, learn.steps // 4),
        trackers=(),
    )


@dataclass(frozen=True, slots=True)
class Lesson:
    """One time that a model learns, on the way to `out`."""

    step: str  # its folders are called so, below those of the run
    out: Path
    parents: Mapping[str, str]  # role -> digest of what is compressed, and of the teacher


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of a lesson."""

    checkpoint: Checkpoint
    shown: Ids | None  # of the pictures that it learned from; None for the embedded data


def learn(checkpoint: Checkpoint, teacher: Teacher, config: CompressConfig, lesson: Lesson) -> Learned:
    """Train a copy of `checkpoint` on the labels and on what `teacher` says.

    Args:
        checkpoint: float; what it is made of is trained in place.
        teacher: reads the batches that the student reads.
        config: of the stage.
        lesson: says where the states are that it goes on from after a kill, and the metrics and the curve.

    Raises:
        ConfigError: the data does not fit the model, or the states are of a run with other settings or parents.
        DataError: the data cannot be read.
    """
    folder, log = steps_folder(lesson.out) / lesson.step, log_folder(lesson.out) / lesson.step
    claim(folder, {**asdict(config), "parents": dict(lesson.parents)})
    # Convolutions are fastest in the layout of the pictures.
    checkpoint.model.requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings, weights = train_config(checkpoint, config), config.learn
    accelerator = new_accelerator(settings)
    with unclaimed_on_error(folder):
        materials = load_materials(settings, folder, checkpoint)
    distillation = Distillation(
        teacher,
        feature_weight=weights.feature_weight,
        relation_weight=weights.relation_weight,
        logit_weight=weights.logit_weight,
        task_weight=weights.task_weight,
    )
    with fitted(
        materials, settings, accelerator=accelerator, folder=folder, log=log, distillation=distillation
    ) as result:
        state = {name: tensor.cpu().clone() for name, tensor in result.model.state_dict().items()}
    model = result.model.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.load_state_dict(state)  # the average, which leaving the run has taken out again
    return Learned(replace(checkpoint, model=model.eval().requires_grad_(False)), result.shown)
