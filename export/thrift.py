"""What a lowering spends on things that nothing needs, left out."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def thrifty() -> Iterator[None]:
    """Hold the garbage collector back: a lowering keeps what it makes until its end, and searching it took a tenth."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
