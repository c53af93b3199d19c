"""Materials of a run on the embedded data: its concepts, its vocabulary, a warm start."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmedge.artifact import SHIPPED
from dmedge.data.emoji import VALIDATION_STYLE
from dmedge.data.evalset import emoji_evalset
from dmedge.data.tokenizer import Tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ConfigError
from dmedge.model.checkpoint import TOKENIZER, Checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.training.batches import Batcher, make_batcher
from dmedge.training.config import TrainConfig
from dmedge.training.data import TrainingData, load_training_data
from dmedge.training.fusion import concept_fusion_loss
from dmedge.training.materials import Materials, initial_checkpoint, model_config, own_tokenizer
from dmedge.training.sharpness import sharpen_
from dmedge.training.validation import LiveEncoder, retrieval
from dmedge.training.warm_start import factorise


def emoji_materials(config: TrainConfig, folder: Path, start: Checkpoint | None = None) -> Materials:
    """Read the embedded data and build the model, or go on with `start`; the vocabulary is kept in `folder`.

    Raises:
        ConfigError: the settings do not fit the data.
    """
    if "hf" in (config.model.image, config.model.text):
        raise ConfigError("data = 'emoji' has ready pixels and trains dmedge's own towers; expected data of your own")
    parents: dict[str, str] = {}
    if config.init:
        start, parents = initial_checkpoint(config)
    data = load_training_data((start.model.config if start else config.model).image_size).in_languages(config.languages)
    if start:
        tokenizer, preprocess, model = start.tokenizer, start.preprocess, start.model
        if not isinstance(tokenizer, Tokenizer) or model.config.concepts not in (0, data.concepts):
            raise ConfigError(
                f"{config.init or 'the checkpoint'} is of other data; expected one that emoji made; name its own data"
            )
        batcher = make_batcher(data, tokenizer, config)
    else:
        tokenizer = _emoji_tokenizer(data, config, folder / "tokenizer.model")
        batcher = make_batcher(data, tokenizer, config)
        model = concept_model(batcher)
        preprocess = Preprocess(size=model.config.image_size)
    validation = emoji_evalset(
        style=VALIDATION_STYLE, locales=data.languages, split="held_out", part="validation"
    ).subset(max_queries_per_language=config.eval_texts_per_language, seed=config.seed)
    return Materials(
        model=model,
        tokenizer=tokenizer,
        preprocess=preprocess,
        source=batcher,
        evaluate=lambda trained: retrieval(LiveEncoder(trained, tokenizer, preprocess), validation),
        fusion_loss=lambda trained, step: concept_fusion_loss(trained, batcher, step),
        sharpen=lambda trained: sharpen_(LiveEncoder(trained, tokenizer, preprocess), validation),
        labels=data.labels,
        answers=(),
        languages=data.languages,
        parents=parents,
    )


def _emoji_tokenizer(data: TrainingData, config: TrainConfig, path: Path) -> Tokenizer:
    """The vocabulary of the embedded text; that of the usual size comes with the shipped checkpoint.

    To fit it again takes most of a minute and gives the same bytes, which a test holds true.
    """
    if config.vocab_size == TrainConfig().vocab_size and not config.languages and not path.exists():
        shutil.copyfile(SHIPPED / "emoji" / TOKENIZER, path)
    return own_tokenizer(data.texts, config, path)


def concept_model(batcher: Batcher) -> DualEncoder:
    """The model of a recipe for data with concepts, before its first step."""
    config, data = batcher.config, batcher.data
    torch.manual_seed(config.seed)
    concepts = data.concepts if config.model.concept_head else 0
    model = DualEncoder(
        model_config(
            config,
            vocab_size=batcher.tokenizer.vocab_size,
            classes=len(data.labels),
            concepts=concepts,
            embed_dim=concepts or config.model.embed_dim,
        )
    )
    if model.fusion is not None and model.fusion.votes is not None:
        model.fusion.votes.members[data.classes, np.arange(data.concepts)] = 1
    if config.warm_start and config.model.text in ("transformer", "bag"):
        width = config.model.text_width
        rows, anchors = factorise(batcher.tokens, data.text_concept, batcher.tokenizer.vocab_size, width, config.seed)
        _start_from_(model, rows, anchors)
    return model


@torch.no_grad()
def _start_from_(model: DualEncoder, rows: Tensor, anchors: Tensor) -> None:
    """Put the factorisation in; the text projection starts as the identity, so that it is intact."""
    token, projection = model.text.token, model.text_projection
    assert isinstance(token, torch.nn.Embedding) and isinstance(projection, torch.nn.Linear)
    token.weight.copy_(rows)
    if projection.in_features == projection.out_features:
        projection.weight.copy_(torch.eye(projection.in_features))
        projection.bias.zero_()
    if model.head is not None:
        model.head.keys.weight[: len(anchors)].copy_(anchors)
