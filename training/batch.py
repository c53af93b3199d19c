"""One training step's tensors."""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from dmedge.data.content import Ids


@dataclass(frozen=True, eq=False)
class TextChunk:
    """Texts of similar length, padded together."""

    ids: Tensor  # int32 [T, L]
    mask: Tensor  # int32 [T, L]
    key: Tensor  # int64 [T]
    content: Ids | None = None  # [T] of the texts before noise

    def to(self, device: torch.device) -> "TextChunk":
        """The same texts on another device."""
        ids, mask, key = (tensor.to(device, non_blocking=True) for tensor in (self.ids, self.mask, self.key))
        return TextChunk(ids, mask, key, self.content)

    def pin_memory(self) -> "TextChunk":
        """The same texts in page-locked memory."""
        return TextChunk(self.ids.pin_memory(), self.mask.pin_memory(), self.key.pin_memory(), self.content)

    def take(self, rows: Tensor) -> "TextChunk":
        """Some of the texts, by their int64 row numbers."""
        content = None if self.content is None else self.content[rows.cpu().numpy()]
        return TextChunk(self.ids[rows], self.mask[rows], self.key[rows], content)


@dataclass(frozen=True, eq=False)
class TrainBatch:
    """Pictures and texts of one step on one rank.

    A text belongs to a picture exactly where their keys are equal; keys mean the same on every rank.
    """

    pixels: Tensor  # uint8 [B, H, W, 3]
    key: Tensor  # int64 [B]
    chunks: tuple[TextChunk, ...]
    labels: Tensor | None = None  # int64 [B] one class each, or float32 [B, C] of 0 and 1
    answers: Tensor | None = None  # float32 [B, A] scores in 0..1
    names: tuple[str, ...] = ()  # of the records, for messages
    content: Ids | None = None  # [B] of the files of the pictures

    def to(self, device: torch.device) -> "TrainBatch":
        """The same batch on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            key=self.key.to(device, non_blocking=True),
            chunks=tuple(chunk.to(device) for chunk in self.chunks),
            labels=move(self.labels),
            answers=move(self.answers),
        )

    def pin_memory(self) -> "TrainBatch":
        """The same batch in page-locked memory, which a GPU copies from while it computes."""
        return replace(
            self,
            pixels=self.pixels.pin_memory(),
            key=self.key.pin_memory(),
            chunks=tuple(chunk.pin_memory() for chunk in self.chunks),
            labels=None if self.labels is None else self.labels.pin_memory(),
            answers=None if self.answers is None else self.answers.pin_memory(),
        )


def split_batch(batch: TrainBatch, parts: int, *, keeps_empty: bool = False) -> list[TrainBatch]:
    """Cut a batch into at most `parts` batches of whole pictures, texts with the first of theirs.

    Labels and answers travel with their pictures.

    Args:
        batch: what is cut.
        parts: as many, or one for each picture.
        keeps_empty: give every part as many chunks as the batch has, some without texts.
    """
    pieces = []
    owner = torch.full((len(batch.key),), -1, dtype=torch.int64, device=batch.key.device)
    bounds = torch.linspace(0, len(batch.key), min(parts, len(batch.key)) + 1).round().long().tolist()
    for number, (start, stop) in enumerate(pairwise(bounds)):
        owner[start:stop] = number
    for number, (start, stop) in enumerate(pairwise(bounds)):
        chunks = []
        for chunk in batch.chunks:
            first = (chunk.key[:, None] == batch.key[None, :]).int().argmax(1)  # of the pictures of each text
            rows = torch.nonzero(owner[first] == number).squeeze(1)
            if len(rows) or keeps_empty:
                chunks.append(chunk.take(rows))
        pieces.append(
            TrainBatch(
                pixels=batch.pixels[start:stop],
                key=batch.key[start:stop],
                chunks=tuple(chunks),
                labels=None if batch.labels is None else batch.labels[start:stop],
                answers=None if batch.answers is None else batch.answers[start:stop],
                names=batch.names[start:stop],
                content=None if batch.content is None else batch.content[start:stop],
            )
        )
    return pieces
