"""Tables as wide as they need to be, so that nothing is cut or wrapped in a pipe."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_PIPE = 10_000  # columns; a pipe has no width, and nothing that is shown is as wide


def text_table(names: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns under their names, two spaces apart.

    Args:
        left: how many columns, from the first, are aligned to the left.
    """
    lines = [list(names), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def print_tables(*tables: "Table") -> None:
    """Print on standard output; only a terminal, which has a width, wraps what does not fit."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE)
    console.print(*tables)
