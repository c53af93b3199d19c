"""Which pictures a run has learned from, over all of its processes and through a kill."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, distributed

from dmedge.data.content import Ids
from dmedge.errors import ConfigError
from dmedge.training.record_source import RecordSource
from dmedge.training.source import BatchSource


def shown_state(source: BatchSource) -> Tensor | None:
    """What every rank has shown, for the state of a run: int64 [records], the bits of an id or 0. All ranks call.

    None for the embedded data, whose splits are fixed.
    """
    if not isinstance(source, RecordSource):
        return None
    mine = torch.from_numpy(source.shown.view(np.int64)).clone()
    if not (distributed.is_available() and distributed.is_initialized()):
        return mine
    everyone: list[Tensor] = [mine] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return _either(everyone)


def restore_shown_(source: BatchSource, state: Tensor | None) -> None:
    """Put back what `shown_state` gave.

    Raises:
        ConfigError: it is of other data.
    """
    if isinstance(source, RecordSource) and state is not None:
        if len(state) != len(source.shown):
            raise ConfigError(
                f"{source.dataset.name}: {len(source.shown)} records; expected the {len(state)} that the run began "
                "with; restore them, or choose another --out"
            )
        source.shown[:] = state.numpy().view(np.uint64)


def shown_ids(source: BatchSource) -> Ids | None:
    """Ids of all pictures that were shown, ascending; None for the embedded data. All ranks call."""
    state = shown_state(source)
    if state is None:
        return None
    ids = np.unique(state.numpy().view(np.uint64))
    return ids[ids > 0]


def _either(states: Sequence[Tensor]) -> Tensor:
    found = states[0]
    for other in states[1:]:
        found = torch.where(found == 0, other, found)
    return found
