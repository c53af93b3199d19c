"""Progress for work that may turn out to be short."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

from dmedge.logs import Advance, progress

WAIT_S = 2.0


@contextmanager
def patient_progress(description: str, total: int, *, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Like `progress`, but nothing is shown before the work has taken two seconds. Threads may call it."""
    began, done, lock = time.monotonic(), 0, Lock()
    shown: Advance | None = None
    with ExitStack() as stack:

        def advance(steps: int) -> None:
            nonlocal shown, done
            with lock:
                done += steps
                if shown is not None:
                    shown(steps)
                elif is_shown and time.monotonic() - began >= WAIT_S:
                    shown = stack.enter_context(progress(description, total))
                    shown(done)

        yield advance
