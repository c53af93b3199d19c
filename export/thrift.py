"""What a lowering spends on things that nothing reads, left out; what it writes stays the same to the byte."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx.traceback import NodeSource


@contextmanager
def thrifty() -> Iterator[None]:
    """Within the block the garbage collector rests, and the history of a graph's nodes is shared, not copied.

    A lowering keeps what it makes until its end, and searching that for garbage took a tenth of its time. Each of
    its hundred passes gives every node a record of the node it was made from, with a deep copy of that one's own
    record: another tenth. A record never changes once it is made.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    NodeSource.__deepcopy__ = _itself  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]
        if was_enabled:
            gc.enable()


def _itself(source: NodeSource, memo: dict[int, Any]) -> NodeSource:
    return source
