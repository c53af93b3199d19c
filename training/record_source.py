"""Batches of the records of a dataset: pictures are opened when they are shown, and bad ones replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dmedge.data.content import Ids, picture_id, text_id
from dmedge.data.hf_tokenizer import AnyTokenizer, HfTokenizer
from dmedge.data.pictures import BadRecords, open_record_image
from dmedge.data.records import Dataset, Record
from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import DataError
from dmedge.training.augment import augment_photo, noisy_text
from dmedge.training.batch import TextChunk, TrainBatch
from dmedge.training.batches import CHUNKS, disturbed_tokens, padded_chunks
from dmedge.training.config import TrainConfig
from dmedge.training.sampling import make_sampler

ClassKind = Literal["none", "single", "multi"]
NO_CLASS = -100  # of a record without a label; cross-entropy leaves it out
TRIES = 100  # records drawn for one row before the data counts as unusable
ROW_STREAM = 3  # of the random numbers of one row


class BadRecord(NamedTuple):
    """A record that was drawn and cannot be used."""

    name: str
    reason: str


@runtime_checkable
class Grouped(Protocol):
    """A dataset whose records lie in groups, such as shards."""

    def groups(self) -> Sequence[tuple[int, int]]:
        """First record, and one after the last, of every group."""
        ...


@dataclass(frozen=True, eq=False)
class _Row:
    number: int  # of the record
    record: Record
    content: int  # id of its picture
    pixels: NDArray[np.uint8]
    texts: tuple[str, ...]
    rng: np.random.Generator


class RecordSource:
    """Batches by step; the key of a batch is the number of each record.

    Everything random about a row depends on (seed, step, row of the global batch) and on nothing
    else, so any number of ranks see together what one process sees, augmentation included. A row
    whose record cannot be used shows another one, drawn by the same numbers.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: AnyTokenizer,
        preprocess: Callable[[Image.Image], NDArray[np.uint8]],
        config: TrainConfig,
        class_kind: ClassKind = "none",
    ) -> None:
        """Prepare the order of all records.

        Args:
            preprocess: a picture to uint8 [S, S, 3].
            class_kind: "single" makes labels int64 [B], the first class of each record or `NO_CLASS`;
                "multi" makes them float32 [B, C].

        Raises:
            DataError: the dataset is empty, or `class_kind` asks for classes that it does not have.
        """
        if class_kind != "none" and not dataset.labels:
            raise DataError(f"{dataset.name}: no classes; expected some for class_weight; set class_weight = 0")
        self.dataset, self.tokenizer, self.preprocess = dataset, tokenizer, preprocess
        self.config, self.class_kind = config, class_kind
        self.sampler = make_sampler(
            dataset.text_languages(),
            batch_size=config.batch_size,
            seed=config.seed,
            balance=config.language_balance,
            groups=dataset.groups() if isinstance(dataset, Grouped) else (),
        )
        self.bad = BadRecords(config.dataset.max_bad_share, dataset.name)
        self.bad.saw(len(dataset))
        self.shown: Ids = np.zeros(len(dataset), np.uint64)  # id of the picture of each record; 0: not shown yet
        self._named: set[str] = set()
        self._size = len(preprocess(Image.new("RGB", (8, 8))))
        self._answer_place = {answer: place for place, answer in enumerate(dataset.answers)}

    @property
    def images_per_epoch(self) -> int:
        """Pictures after which as many texts were shown as there are."""
        return self.sampler.images_per_epoch(self.config.texts_per_image)

    def batch(self, step: int, rank: int, world: int) -> TrainBatch:
        """The rows `rank::world` of the global batch of `step`.

        Raises:
            DataError: too many records cannot be used.
        """
        batch, bad = self.load(step, rank, world)
        self.accept(batch, bad)
        return batch

    def load(self, step: int, rank: int, world: int) -> tuple[TrainBatch, tuple[BadRecord, ...]]:
        """A batch and the records that were bad, neither of them noted yet: a worker cannot.

        Raises:
            DataError: no usable record is found.
        """
        bad: list[BadRecord] = []
        pairs = self.sampler.rows(step)
        rows = [self._row(step, row, int(pairs[row]), bad) for row in range(rank, len(pairs), world)]
        batch = TrainBatch(
            pixels=torch.from_numpy(np.stack([row.pixels for row in rows])),
            key=torch.tensor([row.number for row in rows]),
            chunks=self._chunks(rows, min(CHUNKS, len(pairs) // world)),
            labels=self._labels(rows),
            answers=self._answers(rows),
            names=tuple(row.record.key for row in rows),
            content=np.array([row.content for row in rows], np.uint64),
        )
        return batch, tuple(bad)

    def accept(self, batch: TrainBatch, bad: Sequence[BadRecord]) -> None:
        """Note what is shown, and count bad records, each once, as a share of all records of the dataset.

        Raises:
            DataError: they are too many.
        """
        assert batch.content is not None
        self.shown[batch.key.numpy()] = batch.content
        for name, reason in bad:
            if name not in self._named:
                self._named.add(name)
                self.bad.add(name, reason)
        if self.bad.bad > self.config.dataset.max_bad_share * len(self.dataset):
            self.bad.finish()  # raises: it is a share of all records, not of a sample

    def _row(self, step: int, row: int, pair: int, bad: list[BadRecord]) -> _Row:
        config, rng = self.config, np.random.default_rng([self.config.seed, step, ROW_STREAM, row])
        for _ in range(TRIES):
            number, first = self.sampler.record(pair)
            name = f"record {number}"
            try:
                record = self.dataset[number]
                name = record.key
                image = open_record_image(record.image, config.dataset.max_megapixels)
                image = augment_photo(image, rng, config.augment, size=self._size, may_flip=config.horizontal_flip)
                pixels, content = self.preprocess(image), picture_id(record.image)
            except (DataError, ValueError) as error:  # ValueError: a preprocessing refuses the picture
                bad.append(BadRecord(name, str(error)))
                pair = int(rng.integers(self.sampler.pairs))
            else:
                texts = _some_texts(record.texts, first, config.texts_per_image, rng)
                return _Row(number, record, content, pixels, texts, rng)
        raise DataError(
            f"{self.dataset.name}: {TRIES} records drawn in a row cannot be used, the last is {bad[-1].name}: "
            f"{bad[-1].reason}; expected at most {config.dataset.max_bad_share:.3g} of all; mend the data"
        )

    def _chunks(self, rows: Sequence[_Row], count: int) -> tuple[TextChunk, ...]:
        """Padded texts in as many groups on every rank: a sharded tower runs in step with the others."""
        texts = [(text, row) for row in rows for text in row.texts]
        key = np.array([row.number for _, row in texts], np.int64)
        content = np.array([text_id(text) for text, _ in texts], np.uint64)
        noise, sampling = self.config.text_noise, self.config.subword_sampling
        if isinstance(self.tokenizer, Tokenizer):
            ids = [
                disturbed_tokens(text, self.tokenizer, row.rng, row.rng.random() < noise, row.rng.random() < sampling)
                for text, row in texts
            ]
            return padded_chunks(ids, key, content, count)
        shown = [noisy_text(text, row.rng) if row.rng.random() < noise else text for text, row in texts]
        return _hf_chunks(shown, key, content, self.tokenizer, count)

    def _labels(self, rows: Sequence[_Row]) -> Tensor | None:
        if self.class_kind == "none":
            return None
        if self.class_kind == "single":
            return torch.tensor([row.record.labels[0] if row.record.labels else NO_CLASS for row in rows])
        labels = torch.zeros(len(rows), len(self.dataset.labels))
        for number, row in enumerate(rows):
            labels[number, list(row.record.labels)] = 1
        return labels

    def _answers(self, rows: Sequence[_Row]) -> Tensor | None:
        if not self._answer_place:
            return None
        answers = torch.zeros(len(rows), len(self._answer_place))
        for number, row in enumerate(rows):
            for answer, score in row.record.answers.items():
                if answer in self._answer_place:
                    answers[number, self._answer_place[answer]] = score
        return answers


def _some_texts(texts: Sequence[str], first: int, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """The first text and up to count - 1 others."""
    others = rng.permutation(len(texts) - 1)[: count - 1] if len(texts) > 1 else ()
    return (*texts[first : first + 1], *(texts[(first + 1 + int(other)) % len(texts)] for other in others))


def _hf_chunks(
    texts: Sequence[str], key: NDArray[np.int64], content: Ids, tokenizer: HfTokenizer, count: int
) -> tuple[TextChunk, ...]:
    """Chunks whose padding is the tokenizer's own; one where it fills up to the same length anyway."""
    order = np.argsort([len(text.encode("utf-8", "replace")) for text in texts], kind="stable")
    parts = np.array_split(order, 1 if tokenizer.rules.pads else count)
    chunks = []
    for part in (part for part in parts if len(part)):
        ids, mask = tokenizer.batch([texts[i] for i in part])
        tensors = (torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(key[part]))
        chunks.append(TextChunk(*tensors, content[part]))
    return tuple(chunks)
