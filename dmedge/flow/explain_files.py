"""Explanations as files: a picture or a page, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

from dmedge.errors import DataError
from dmedge.flow.atomic import write_atomically
from dmedge.flow.explain import Explanation
from dmedge.flow.explain_page import render_explanation
from dmedge.flow.explain_picture import draw_explanation

SUFFIXES = (".png", ".html")


def check_out(out: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse what cannot become a new file, before any work is done for it.

    Raises:
        DataError: `out` exists, or is named like no file of this kind.
    """
    if out.suffix not in suffixes:
        raise DataError(f"{out}: ends in {out.suffix!r}; expected {' or '.join(suffixes)}; name it so")
    if out.exists():
        raise DataError(f"{out}: exists already; expected a new file; choose another --out or remove it")


def write_explanation(found: Explanation, out: Path) -> None:
    """Write a picture or a page, by the name of `out`."""
    if out.suffix == ".html":
        write_page(out, render_explanation(found))
    else:
        page = draw_explanation(found)
        write_atomically(out, lambda stream: page.save(stream, "PNG", optimize=True))


def write_page(out: Path, page: str) -> None:
    """Write the text of a page."""
    write_atomically(out, lambda stream: stream.write(page.encode("utf-8", "replace")))
