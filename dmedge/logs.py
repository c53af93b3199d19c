"""What a person watching sees on standard error: messages and progress. Standard output is for results."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger("dmedge")

_LINE_INTERVAL_S = 10.0


class Advance(Protocol):
    """Moves a progress display on by `steps` and shows a short `note` beside it."""

    def __call__(self, steps: float = 1, note: str = "") -> None:
        """Count `steps` more as done."""


def configure(level: int = logging.INFO) -> None:
    """Send dmedge's own messages from `level` up to standard error; calling it again changes the level."""
    console = _stderr()
    if console.is_terminal:
        from rich.logging import RichHandler

        logger.handlers[:] = [RichHandler(console=console, show_time=False, show_path=False, show_level=False)]
    else:
        logger.handlers[:] = [_WholeLines()]
    logger.setLevel(level)
    logger.propagate = False


class _WholeLines(logging.Handler):
    """One line for each message, as long as it is: a pipe or a file has no width to wrap it to."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


@contextmanager
def quieter(name: str, level: int) -> Iterator[None]:
    """Hold back what the logger `name` says below `level`."""
    talker = logging.getLogger(name)
    before = talker.level
    talker.setLevel(level)
    try:
        yield
    finally:
        talker.setLevel(before)


@contextmanager
def progress(description: str, total: float | None = None, *, is_shown: bool = True) -> Iterator[Advance]:
    """Show work in progress on standard error: a bar on a terminal, a line every few seconds elsewhere.

    Args:
        total: how many steps there are [default: unknown].
        is_shown: whether to show anything; of several processes that do the same, one does.
    """
    console = _stderr()
    display = (_bar if console.is_terminal else _lines) if is_shown else _nothing
    with display(console, description, total) as advance:
        yield advance


@contextmanager
def _bar(console: "Console", description: str, total: float | None) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(description, total=total, note="")

        def advance(steps: float = 1, note: str = "") -> None:
            bars.advance(task, steps)
            if note:
                bars.update(task, note=note)

        yield advance


@contextmanager
def _lines(_: "Console", description: str, total: float | None) -> Iterator[Advance]:
    done, began, last = 0.0, time.monotonic(), time.monotonic()

    def advance(steps: float = 1, note: str = "") -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last >= _LINE_INTERVAL_S or (done == total and last > began):
            last = time.monotonic()
            of = f"/{total:g}" if total is not None else ""
            click.echo(f"{description} {done:g}{of} {last - began:.0f} s {note}".rstrip(), err=True)

    yield advance


@contextmanager
def _nothing(_: "Console", description: str, total: float | None) -> Iterator[Advance]:
    yield lambda steps=1, note="": None


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)
