"""Batches of concepts, and what other batches share with them: text noise, tokens, padding."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmedge.data.content import Ids, text_id
from dmedge.data.tokenizer import Tokenizer
from dmedge.training.augment import augment_images, noisy_text
from dmedge.training.batch import TextChunk, TrainBatch
from dmedge.training.config import TrainConfig
from dmedge.training.data import Batch, TrainingData, draw_batch

CHUNKS = 6  # texts of one batch are padded in this many groups of similar length
SPLIT_SHARE = 0.3  # of the tokens of a text whose subwords are disturbed
RANK_STREAM = 2  # of the random numbers of one rank among several; 1 is that of style mixing


@dataclass(frozen=True, eq=False)
class Batcher:
    """Builds the tensors of any step; holds the tokens of every training text. The key of a batch is its concepts."""

    data: TrainingData
    tokenizer: Tokenizer
    config: TrainConfig
    tokens: tuple[list[int], ...]

    @property
    def images_per_epoch(self) -> int:
        """Number of training pictures, in all art styles."""
        return len(self.data.images)

    def batch(self, step: int, rank: int, world: int) -> TrainBatch:
        """The rows `rank::world` of the global batch of `step`; noise and augmentation are the rank's own."""
        batch, rng, generator = self.draw(step)
        if world > 1:
            batch = batch.share(rank, world)
            rng = np.random.default_rng([self.config.seed, step, RANK_STREAM, rank])
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        pixels = self.images(batch, rng, generator)
        return TrainBatch(
            pixels,
            torch.from_numpy(batch.concepts),
            self.text_chunks(batch, rng),
            content=self.data.content[batch.images],
        )

    def draw(self, step: int) -> tuple[Batch, np.random.Generator, torch.Generator]:
        """Draw the batch of `step` and the generators that its augmentation uses."""
        rng = np.random.default_rng([self.config.seed, step])
        config = self.config
        batch = draw_batch(
            self.data, rng, config.batch_size, config.texts_per_image, config.name_share, config.language_balance
        )
        return batch, rng, torch.Generator().manual_seed(int(rng.integers(2**31)))

    def images(self, batch: Batch, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """Augmented uint8 [B, S, S, 3] pixels."""
        start, stop = (self.data.first_image[batch.concepts + i] for i in (0, 1))
        partners = start + (rng.random(len(start)) * (stop - start)).astype(np.int64)
        first, second = (torch.from_numpy(self.data.images[rows]) for rows in (batch.images, partners))
        return augment_images(first, second, generator, self.config.augment)

    def token_ids(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[list[int]]:
        """Tokens of training texts, some of them misspelt, some split in another way."""
        draw = rng.random((2, len(rows)))
        return [
            self._disturbed(
                int(row), rng, draw[0, i] < self.config.text_noise, draw[1, i] < self.config.subword_sampling
            )
            for i, row in enumerate(rows)
        ]

    def _disturbed(self, row: int, rng: np.random.Generator, is_noisy: bool, is_sampled: bool) -> list[int]:
        if not (is_noisy or is_sampled):
            return self.tokens[row]
        return disturbed_tokens(self.data.texts[row], self.tokenizer, rng, is_noisy, is_sampled)

    def text_chunks(self, batch: Batch, rng: np.random.Generator) -> tuple[TextChunk, ...]:
        """Padded texts in groups of similar length."""
        content = np.array([text_id(self.data.texts[row]) for row in batch.texts], np.uint64)
        return padded_chunks(self.token_ids(batch.texts, rng), batch.concepts[batch.text_row], content)


def disturbed_tokens(
    text: str, tokenizer: Tokenizer, rng: np.random.Generator, is_noisy: bool, is_sampled: bool
) -> list[int]:
    """Tokens of a text, misspelt where `is_noisy`, split in another way where `is_sampled`."""
    ids = tokenizer.encode(noisy_text(text, rng) if is_noisy else text)
    return split_tokens(ids, tokenizer, rng) if is_sampled else ids


def split_tokens(ids: list[int], tokenizer: Tokenizer, rng: np.random.Generator) -> list[int]:
    """Split some tokens into two, where the vocabulary holds both halves.

    SentencePiece can sample a segmentation itself, but not the same one in two processes,
    which a resumed run needs.

    Source: after Provilkov et al. 2020, arXiv:1910.13267 (BPE-dropout).
    """
    split: list[int] = []
    for token in ids:
        piece = tokenizer.piece(token)
        halves = [token]
        if len(piece) > 1 and rng.random() < SPLIT_SHARE:
            place = int(rng.integers(1, len(piece)))
            found = [tokenizer.piece_id(part) for part in (piece[:place], piece[place:])]
            halves = [part for part in found if part is not None] if None not in found else halves
        split += halves
    return split[: tokenizer.context_length]


def padded_chunks(
    ids: list[list[int]], key: NDArray[np.int64], content: Ids, count: int = CHUNKS
) -> tuple[TextChunk, ...]:
    """Pad texts in up to `count` groups of similar length.

    Args:
        ids: tokens of T texts.
        key: [T] of the texts.
        content: [T] of the texts.
        count: groups; fewer where there are fewer texts.
    """
    order = np.argsort([len(item) for item in ids], kind="stable")
    return tuple(
        TextChunk(*pad([ids[i] for i in part]), torch.from_numpy(key[part]), content[part])
        for part in np.array_split(order, count)
        if len(part)
    )


def pad(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Pad id lists with 0 to the longest; return int32 [B, L] ids and mask."""
    length = max(len(item) for item in ids)
    padded = np.zeros((len(ids), length), np.int32)
    mask = np.zeros((len(ids), length), np.int32)
    for row, item in enumerate(ids):
        padded[row, : len(item)] = item
        mask[row, : len(item)] = 1
    return torch.from_numpy(padded), torch.from_numpy(mask)


def make_batcher(data: TrainingData, tokenizer: Tokenizer, config: TrainConfig) -> Batcher:
    """Tokenise every training text once; half of them are in several cells."""
    texts = list(dict.fromkeys(data.texts))
    tokens = dict(zip(texts, tokenizer.encode_all(texts), strict=True))
    return Batcher(data, tokenizer, config, tuple(tokens[text] for text in data.texts))
