"""A training run that takes a second: 12 concepts in 3 languages, a model of a few thousand weights.

Run as a program it dies by SIGKILL at a chosen step, as a run does when its machine goes down.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet
from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.training import emoji_materials, loop
from dmedge.training import train as stage
from dmedge.training.batches import Batcher, make_batcher
from dmedge.training.config import TowerConfig, TrainConfig
from dmedge.training.data import TrainingData

WORDS = ("apple", "boat", "cloud", "drum", "eagle", "flame", "grape", "house", "island", "jacket", "kite", "lemon")
ENDINGS = {"aa": "", "bb": "ovic", "cc": "zu"}  # a language is an ending
SIZE = 48
IMAGES, TEXTS = 2, 2  # of a concept; of a concept in one language

TOWERS = TowerConfig(
    image_width=4, text_width=16, text_layers=1, text_heads=2, context_length=16, embed_dim=8, fusion="cross-attention"
)


def tiny_config(**changes: Any) -> TrainConfig:
    """Settings in the shape of a recipe, at a hundredth of its size."""
    settings: dict[str, Any] = {
        "steps": 10,
        "fusion_steps": 4,
        "batch_size": 6,
        "texts_per_image": 2,
        "vocab_size": 400,
        "warmup_steps": 2,
        "precision": "float32",
        "eval_every": 5,
        "eval_texts_per_language": 3,
        "save_every": 4,
        "trackers": (),
        "model": TOWERS,
    }
    return TrainConfig(**settings | changes)


def tiny_data() -> TrainingData:
    """Concepts that differ by colour and by word."""
    rng = np.random.default_rng(0)
    concepts, languages = len(WORDS), tuple(ENDINGS)
    colours = rng.integers(0, 256, (concepts, 1, 1, 1, 3))
    noise = rng.integers(-8, 8, (concepts, IMAGES, SIZE, SIZE, 3))
    texts = [name for word in WORDS for ending in ENDINGS.values() for name in (word + ending, f"{word}{ending} thing")]
    return TrainingData(
        images=(colours + noise).clip(0, 255).astype(np.uint8).reshape(-1, SIZE, SIZE, 3),
        content=np.arange(concepts * IMAGES, dtype=np.uint64),
        first_image=np.arange(concepts + 1) * IMAGES,
        texts=tuple(texts),
        first_text=np.arange(concepts * len(languages) + 1) * TEXTS,
        text_concept=np.repeat(np.arange(concepts), len(languages) * TEXTS),
        languages=languages,
        classes=np.arange(concepts) % 3,
        class_siblings=np.arange(concepts) // 2,
        labels=("red", "green", "blue"),
    )


def tiny_evalset() -> EvalSet:
    """One picture per concept, and its first text in every language."""
    data = tiny_data()
    rows: NDArray[np.int64] = np.arange(0, len(data.texts), TEXTS)
    return EvalSet(
        name="tiny",
        images=tuple(data.images[::IMAGES]),
        clusters=WORDS,
        texts=tuple(data.texts[row] for row in rows),
        text_image=data.text_concept[rows],
        languages=data.languages * len(WORDS),
    )


def tiny_batcher(folder: Path, config: TrainConfig | None = None, data: TrainingData | None = None) -> Batcher:
    """Batches of `tiny_data`; the vocabulary is made in `folder`."""
    config, data, path = config or tiny_config(), data or tiny_data(), folder / "tokenizer.model"
    train_tokenizer(sorted(set(data.texts)), path, config.vocab_size)
    return make_batcher(data, Tokenizer(path, config.model.context_length), config)


@contextmanager
def tiny_world() -> Iterator[None]:
    """Have the train stage find the tiny data in the place of the embedded data."""
    with (
        mock.patch.object(emoji_materials, "load_training_data", lambda image_size: tiny_data()),
        mock.patch.object(emoji_materials, "emoji_evalset", lambda **choice: tiny_evalset()),
    ):
        yield


def tiny_train(out: Path, config: TrainConfig | None = None) -> Artifact:
    """Train for a second on one thread, since sums over threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tiny_world():
            return stage.train(config or tiny_config(), out)
    finally:
        torch.set_num_threads(threads)


def dying(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """`function` until it has been called so often; then the process is gone."""
    left = iter(range(calls))

    def wrapped(*arguments: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return wrapped


if __name__ == "__main__":
    where, name, count = sys.argv[1:]
    module = loop if name == "train_step" else emoji_materials
    with mock.patch.object(module, name, dying(getattr(module, name), int(count))):
        tiny_train(Path(where))
