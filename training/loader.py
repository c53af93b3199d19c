"""Batches made ahead of time in worker processes, and how long the loop waited for them."""

import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from dmedge.errors import DmedgeError
from dmedge.training.batch import TrainBatch
from dmedge.training.record_source import BadRecord, RecordSource
from dmedge.training.source import BatchSource

_Item = tuple[TrainBatch, tuple[BadRecord, ...]] | DmedgeError


@dataclass
class Waiting:
    """Where the time of a loop over batches goes, in seconds."""

    waited_s: float = 0.0  # for a batch
    worked_s: float = 0.0  # between a batch and the wish for the next

    @property
    def share(self) -> float:
        """Share of the time of the steps that was spent waiting, 0..1."""
        return self.waited_s / max(self.waited_s + self.worked_s, 1e-9)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave out what is no part of a step, such as an evaluation."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.worked_s -= time.perf_counter() - began


def batches(
    source: BatchSource,
    start: int,
    stop: int,
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
    waiting: Waiting | None = None,
) -> Generator[TrainBatch, None, None]:
    """Batches of the steps start..stop-1, in order; `close` ends the processes.

    Args:
        source: what makes them.
        start: first step.
        stop: one after the last step.
        workers: processes that make them ahead of time; 0 makes each when it is asked for.
        rank: of this process among `world`.
        world: number of processes that share a batch.
        pin_memory: keep batches where a GPU copies from while it computes; only with a GPU.
        waiting: is kept up to date.

    Raises:
        DataError: too many records cannot be used.
    """
    waiting = waiting or Waiting()
    items = _items(_Steps(source, rank, world), start, stop, workers, pin_memory)
    asked = time.perf_counter()
    try:
        for item in items:
            batch = _accept(source, item)
            handed = time.perf_counter()
            waiting.waited_s += handed - asked
            yield batch
            asked = time.perf_counter()
            waiting.worked_s += asked - handed
    finally:
        items.close()


class _Steps(torch.utils.data.Dataset[_Item]):
    """A dataset whose items are whole batches, by step."""

    def __init__(self, source: BatchSource, rank: int, world: int) -> None:
        self.source, self.rank, self.world = source, rank, world

    def __getitem__(self, step: int) -> _Item:
        """One batch and what was bad, or the error that the main process is to raise without a worker's traceback."""
        try:
            if isinstance(self.source, RecordSource):
                return self.source.load(step, self.rank, self.world)
            return self.source.batch(step, self.rank, self.world), ()
        except DmedgeError as error:
            return error


def _items(steps: _Steps, start: int, stop: int, workers: int, pin_memory: bool) -> Generator[_Item, None, None]:
    if workers == 0:
        for step in range(start, stop):
            item = steps[step]
            yield (item[0].pin_memory(), item[1]) if pin_memory and not isinstance(item, DmedgeError) else item
        return
    with warnings.catch_warnings():  # how many workers are worth it is for the recipe to say
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # or the loader would draw from the one that a resumed run restores
        )
        items = iter(loader)
    yield from items


def _accept(source: BatchSource, item: _Item) -> TrainBatch:
    """Note what is shown and what was bad, here where all workers meet."""
    if isinstance(item, DmedgeError):
        raise item
    batch, bad = item
    if isinstance(source, RecordSource):
        source.accept(batch, bad)
    return batch
