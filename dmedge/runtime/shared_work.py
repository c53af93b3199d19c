"""Sessions with the same programs, which share work and show how far it is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TypeVar

from dmedge.patience import patient_progress
from dmedge.runtime.session import Session, SessionFacts

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 512  # items between two steps of the progress display, at most


class SharedSessions:
    """Some sessions of one artifact."""

    def __init__(self, open_one: Callable[[], Session], count: int, *, show_progress: bool = True) -> None:
        """Open them, all or none.

        Args:
            open_one: loads the programs.
            count: how many.
            show_progress: whether long work shows progress on standard error.
        """
        self._show_progress = show_progress
        with ExitStack() as stack:
            self._sessions = [stack.enter_context(open_one()) for _ in range(count)]
            self._stack = stack.pop_all()

    @property
    def first(self) -> Session:
        """Any of them, for work that is not shared."""
        return self._sessions[0]

    def share(self, items: Sequence[T], run: Callable[[Session, Sequence[T]], R], what: str) -> Iterator[R]:
        """Run every part of `items` on some session, in order, and show progress when it takes long.

        Args:
            run: what is done with one part on one session.
            what: the items, as the progress display calls them.
        """
        idle: SimpleQueue[Session] = SimpleQueue()
        for session in self._sessions:
            idle.put(session)

        def run_on_idle(chunk: Sequence[T]) -> R:
            session = idle.get()
            try:
                return run(session, chunk)
            finally:
                idle.put(session)

        chunks = self._chunks(items)
        with ExitStack() as stack:
            advance = stack.enter_context(
                patient_progress(f"encoding {what}", len(items), is_shown=self._show_progress)
            )
            if len(self._sessions) == 1:
                results: Iterable[R] = map(run_on_idle, chunks)
            else:
                pool = ThreadPoolExecutor(len(self._sessions))
                stack.callback(pool.shutdown, cancel_futures=True)
                results = pool.map(run_on_idle, chunks)
            for chunk, result in zip(chunks, results, strict=True):
                advance(len(chunk))
                yield result

    def facts(self) -> list[SessionFacts]:
        """The runtime and what it has used, of every session."""
        return [session.facts() for session in self._sessions]

    def close(self) -> None:
        """Release the programs; closing twice is fine."""
        self._stack.close()

    def _chunks(self, items: Sequence[T]) -> list[Sequence[T]]:
        """Parts that keep all sessions busy, and none so large that the display stands still."""
        size = max(1, min(CHUNK, -(-len(items) // len(self._sessions))))
        return [items[start : start + size] for start in range(0, len(items), size)]
