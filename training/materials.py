"""What a run is made of: data, vocabulary, a model before its first step, and what judges it."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dmedge.artifact import load_artifact
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ConfigError
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.training.config import TrainConfig
from dmedge.training.fusion import FusionLoss
from dmedge.training.source import BatchSource
from dmedge.training.validation import Evaluate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Materials:
    """Everything that the loop needs, ready to use; the model is on the CPU."""

    model: DualEncoder
    tokenizer: AnyTokenizer
    preprocess: Preprocess
    source: BatchSource
    evaluate: Evaluate
    fusion_loss: FusionLoss
    sharpen: Callable[[DualEncoder], dict[str, float]]  # changes the model
    labels: tuple[str, ...]
    answers: tuple[str, ...]
    languages: tuple[str, ...]
    parents: Mapping[str, str] = field(default_factory=dict)  # role -> digest
    facts: Mapping[str, object] = field(default_factory=dict)  # for the manifest


def model_config(config: TrainConfig, **found: object) -> ModelConfig:
    """What the recipe chooses, and what the data fixes."""
    towers = config.model
    settings: dict[str, object] = {
        "image": towers.image,
        "image_size": towers.image_size,
        "image_width": towers.image_width,
        "image_layers": towers.image_layers,
        "image_heads": towers.image_heads,
        "patch_size": towers.patch_size,
        "text": towers.text,
        "text_width": towers.text_width,
        "text_layers": towers.text_layers,
        "text_heads": towers.text_heads,
        "positions": towers.positions,
        "context_length": towers.context_length,
        "embed_dim": towers.embed_dim,
        "logit_bias": config.loss == "siglip",
        "fusion": towers.fusion,
        "modality": towers.modality,
    }
    try:
        return ModelConfig(**settings | found)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def own_tokenizer(texts: Iterable[str], config: TrainConfig, path: Path) -> Tokenizer:
    """Train the vocabulary on the training text only, or take the one that this run has made before."""
    if not path.exists():
        distinct = sorted(set(texts))
        logger.info("fitting a vocabulary of %d subwords to %d texts", config.vocab_size, len(distinct))
        train_tokenizer(distinct, path, config.vocab_size)
    return Tokenizer(path, config.model.context_length)


def initial_checkpoint(config: TrainConfig) -> tuple[Checkpoint, dict[str, str]]:
    """The checkpoint that `init` names, and its digest as a parent."""
    artifact = load_artifact(Path(config.init), kind="checkpoint")
    checkpoint = load_checkpoint(artifact)
    if checkpoint.quantization is not None:
        raise ConfigError(f"init = {config.init!r} is quantized; expected the float checkpoint that it was made from")
    checkpoint.model.requires_grad_(True)
    return checkpoint, {"init": artifact.digest}
