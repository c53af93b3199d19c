"""The `train` stage: from data to an fp32 checkpoint."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dmedge.artifact import Artifact, new_artifact
from dmedge.data.emoji import VALIDATION_STYLE
from dmedge.data.evalset import EvalSet, emoji_evalset
from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, ConfigError
from dmedge.evidence.accuracy import evaluate
from dmedge.manifest import canonical_json
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, save_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.training.batches import Batcher, make_batcher, pad
from dmedge.training.config import TrainConfig
from dmedge.training.data import TrainingData, load_training_data
from dmedge.training.loop import TrainState, load_state_, new_state, pick_precision, run_steps, train_fusion
from dmedge.training.warm_start import factorise

logger = logging.getLogger(__name__)
EVAL_BATCH = 512


def train(config: TrainConfig, out: Path) -> Artifact:
    """Train a dual encoder and write it as a checkpoint.

    The run works in `OUT.steps`, beside `out`, and continues from there after a kill when it is
    started again with the same settings; the folder goes when the checkpoint stands.

    Raises:
        ArtifactError: `out` exists.
        ConfigError: `OUT.steps` belongs to a run with other settings.
    """
    if out.exists():
        raise ArtifactError(f"{out}: exists already; expected a new directory; choose another --out or remove it")
    steps = out.with_name(f"{out.name}.steps")
    steps.mkdir(parents=True, exist_ok=True)
    _claim(steps, config)
    data = load_training_data(config.data)
    tokenizer = _tokenizer(data, config, steps / "tokenizer.model")
    batcher = make_batcher(data, tokenizer, config)
    state = new_state(_initial_model(batcher), config)
    state_file = steps / "state.pt"
    if state_file.exists():
        load_state_(state, state_file, config)
        logger.info("continuing %s at step %d of %d", steps, state.step, config.steps)
    preprocess = Preprocess(size=state.model.config.image_size)
    validation = emoji_evalset(style=VALIDATION_STYLE, split="held_out", part="validation").subset(
        max_queries_per_language=config.eval_texts_per_language, seed=config.seed
    )
    run_steps(
        state,
        batcher,
        config,
        lambda model: _validate(model, tokenizer, preprocess, validation),
        state_file,
    )
    train_fusion(state.average, batcher, config)
    checkpoint = Checkpoint(state.average.eval(), tokenizer, preprocess, data.labels)
    artifact = _write(checkpoint, data, state, config, out)
    shutil.rmtree(steps)
    return artifact


def _claim(steps: Path, config: TrainConfig) -> None:
    """Mark `steps` as the folder of a run with these settings, those aside that may still change.

    Raises:
        ConfigError: it is marked by a run with other settings.
    """
    settings = {
        name: value for name, value in asdict(config).items() if name not in ("steps", "fusion_steps", "storage")
    }
    fingerprint = hashlib.sha256(canonical_json(settings)).hexdigest()
    mark = steps / "settings.sha256"
    if mark.exists() and mark.read_text(encoding="utf-8") != fingerprint:
        raise ConfigError(
            f"{steps}: belongs to a run with other settings; expected the settings of this run; "
            "remove it, or choose another --out"
        )
    mark.write_text(fingerprint, encoding="utf-8")


def _tokenizer(data: TrainingData, config: TrainConfig, path: Path) -> Tokenizer:
    """Train the vocabulary on the training text only, or take the one that this run has made before."""
    if not path.exists():
        logger.info("fitting a vocabulary of %d subwords to %d texts", config.vocab_size, len(data.texts))
        train_tokenizer(sorted(set(data.texts)), path, config.vocab_size)
    return Tokenizer(path, config.model.context_length)


def _initial_model(batcher: Batcher) -> DualEncoder:
    config, data = batcher.config, batcher.data
    torch.manual_seed(config.seed)
    towers = config.model
    model = DualEncoder(
        ModelConfig(
            vocab_size=batcher.tokenizer.vocab_size,
            classes=len(data.labels),
            image_width=towers.image_width,
            text=towers.text,
            text_width=towers.text_width,
            text_layers=towers.text_layers,
            text_heads=towers.text_heads,
            context_length=towers.context_length,
            embed_dim=data.concepts if towers.concept_head else towers.embed_dim,
            concepts=data.concepts if towers.concept_head else 0,
            fusion=towers.fusion,
        )
    )
    if config.warm_start:
        rows, anchors = factorise(
            batcher.tokens, data.text_concept, batcher.tokenizer.vocab_size, towers.text_width, config.seed
        )
        _start_from_(model, rows, anchors)
    return model


@torch.no_grad()
def _start_from_(model: DualEncoder, rows: Tensor, anchors: Tensor) -> None:
    """Put the factorisation in; the text projection starts as the identity, so that it is intact."""
    assert isinstance(model.text.token, torch.nn.Embedding)
    model.text.token.weight.copy_(rows)
    model.text_projection.weight.copy_(torch.eye(len(model.text_projection.weight)))
    model.text_projection.bias.zero_()
    if model.head is not None:
        model.head.keys.weight[: len(anchors)].copy_(anchors)


class LiveEncoder:
    """A model still in training, as evaluation wants to call it."""

    def __init__(self, model: DualEncoder, tokenizer: Tokenizer, preprocess: Preprocess) -> None:
        self.model, self.tokenizer, self.preprocess = model, tokenizer, preprocess

    @torch.inference_mode()
    def images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Embed pictures as [N, D]."""
        pixels = torch.from_numpy(np.stack([self.preprocess(_as_picture(image)) for image in images]))
        return torch.cat([self.model.encode_image(part)[0] for part in torch.split(pixels, EVAL_BATCH)]).float().numpy()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as [T, D]."""
        ids = [self.tokenizer.encode(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        result = np.empty((len(ids), self.model.config.embed_dim), np.float32)
        for start in range(0, len(order), EVAL_BATCH):
            rows = order[start : start + EVAL_BATCH]
            result[rows] = self.model.encode_text(*pad([ids[i] for i in rows]))[0].float().numpy()
        return result


def _as_picture(image: Any) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def _validate(model: DualEncoder, tokenizer: Tokenizer, preprocess: Preprocess, data: EvalSet) -> dict[str, float]:
    report = evaluate(LiveEncoder(model, tokenizer, preprocess), data)
    figures = report.macro("text_to_image")
    worst = min(score.recall_at_10 for score in report.by_language("text_to_image").values())
    return {
        "recall_at_1": figures.recall_at_1,
        "recall_at_10": figures.recall_at_10,
        "worst_language_recall_at_10": worst,
    }


def _write(checkpoint: Checkpoint, data: TrainingData, state: TrainState, config: TrainConfig, out: Path) -> Artifact:
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    with new_artifact(out) as draft:
        save_checkpoint(draft.path, checkpoint, dtype=getattr(torch, config.storage))
        return draft.finish(
            kind="checkpoint",
            stage="train",
            config=asdict(config),
            programs=checkpoint_programs(checkpoint.model.config),
            precision={"*": config.storage},
            languages=data.languages,
            summary={"parameters": parameters, "autocast": pick_precision(config), "validation": state.history},
        )
