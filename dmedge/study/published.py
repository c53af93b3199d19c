"""What the authors of the original system state for it, in a column beside what was measured here."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from dmedge.config import read_toml
from dmedge.study.page import Table

FIGURES = Path(__file__).with_name("published.toml")
COLUMN = "the original's, as published: other data, not comparable"


def with_published(table: Table, name: str) -> Table:
    """`table` with the column; figures that no row of ours stands beside get a row of their own.

    Args:
        table: whose first column says what a row is.
        name: of the figures in `published.toml`.
    """
    figures = dict(_published()[name])
    rows = [[*row, figures.pop(row[0], "")] for row in table.rows]
    empty = [""] * (len(table.columns) - 1)
    rows += [[label, *empty, figure] for label, figure in figures.items()]
    return replace(table, columns=(*table.columns, COLUMN), rows=rows)


@cache
def _published() -> Mapping[str, Mapping[str, str]]:
    return read_toml(FIGURES)
