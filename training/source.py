"""Where batches come from: a pure function of the step, so that a resumed run sees what it would have seen."""

from typing import Protocol

from dmedge.training.batch import TrainBatch


class BatchSource(Protocol):
    """Batches by step number; `batch_size` of the settings is global, over all ranks."""

    @property
    def images_per_epoch(self) -> int:
        """Pictures that make one pass over the data."""
        ...

    def batch(self, step: int, rank: int, world: int) -> TrainBatch:
        """The rows `rank::world` of the global batch of `step`.

        What is drawn depends on the seed and the step; augmentation on the rank as well.
        """
        ...
