"""Learning from a teacher: what a student does from its start, and a pruned model to recover."""

from dataclasses import replace
from pathlib import Path

from dmedge.compress.config import CompressConfig
from dmedge.data.records import DatasetConfig
from dmedge.model.checkpoint import Checkpoint
from dmedge.training.config import TrainConfig
from dmedge.training.distill import Distillation, Teacher
from dmedge.training.fit import fitted, load_materials, new_accelerator
from dmedge.training.train import claim

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


def learn(checkpoint: Checkpoint, teacher: Teacher, config: CompressConfig, folder: Path, log: Path) -> Checkpoint:
    """Train a copy of `checkpoint` on the labels and on what `teacher` says.

    Args:
        checkpoint: float; what it is made of is trained in place.
        teacher: reads the batches that the student reads.
        config: of the stage.
        folder: holds the states that it goes on from after a kill.
        log: the folder for its metrics and its curve.

    Raises:
        ConfigError: the data does not fit the model, or `folder` is of a run with other settings.
        DataError: the data cannot be read.
    """
    checkpoint.model.requires_grad_(True)
    settings, weights = train_config(checkpoint, config), config.learn
    accelerator = new_accelerator(settings)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, settings)
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
        model = result.model.cpu()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)  # the average, which leaving the run has taken out again
    return replace(checkpoint, model=model.eval().requires_grad_(False))
