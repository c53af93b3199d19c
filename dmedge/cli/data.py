"""dmedge data: look at the embedded emoji, their languages, licences and splits."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmedge.cli.common import json_option, print_json
from dmedge.errors import DataError

if TYPE_CHECKING:
    from dmedge.data.sheet import EmojiSplit
    from dmedge.data.summary import PackFacts


@click.group()
def data() -> None:
    """Look at the embedded data: emoji art in nine styles, named in 100 locales."""


@data.command()
@json_option
def info(as_json: bool) -> None:
    """Count emoji, styles, languages and splits, and name sources and licences."""
    from dmedge.data.emoji import load_pack
    from dmedge.data.summary import summarise

    facts = summarise(load_pack())
    if as_json:
        print_json(asdict(facts))
    else:
        click.echo("\n".join(_lines(facts)))


def _lines(facts: "PackFacts") -> Iterator[str]:
    splits, mb = facts.splits, facts.size_bytes / 1e6
    yield f"{facts.emoji:,} emoji in {facts.groups} groups and {facts.subgroups} subgroups, {mb:.1f} MB in all"
    yield ""
    yield f"{'style':<13}{'used for':<12}{'emoji':>6}{'MB':>7}  {'licence':<11} source"
    for name, style in facts.styles.items():
        size = f"{style.size_bytes / 1e6:.2f}"
        yield f"{name:<13}{style.role:<12}{style.emoji:>6,}{size:>7}  {style.licence:<11} {style.package}"
    yield ""
    yield f"{len(facts.locales)} locales = {facts.languages} languages in {facts.scripts} scripts"
    yield from textwrap.wrap(" ".join(facts.locales), 100, initial_indent="  ", subsequent_indent="  ")
    worst = min(facts.locales, key=lambda tag: facts.locales[tag]["coverage"])
    yield f"  every locale names at least {facts.locales[worst]['coverage']:.1%} of the emoji ({worst})"
    yield f"  {facts.names:,} names and {facts.keywords:,} keywords"
    yield ""
    yield "splits, fixed by hash (a cell is one emoji in one locale)"
    for count, meaning in (
        (splits.seen_emoji, "emoji are trained on"),
        (splits.unseen_emoji, "emoji are held out completely, pictures and texts"),
        (splits.train_cells, "cells are trained on"),
        (splits.validation_cells, "cells are held out for validation"),
        (splits.test_cells, "cells are held out for the test"),
        (splits.test_cells_novel, "of these have a name that occurs nowhere in the training text"),
        (splits.training_texts, "training texts, names and keywords"),
        (splits.training_images, "training pictures"),
    ):
        yield f"  {count:>8,} {meaning}"
    yield ""
    yield "texts and lists"
    for source in facts.sources:
        if not source["use"].startswith("art"):
            yield f"  {source['package']} {source['version']}, {source['licence']}: {source['use']}"
    yield "authors and licence texts: dmedge/data/pack/ATTRIBUTION.md"


@data.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG file to create.")
@click.option("--style", help="One style, as a grid with names [default: all styles side by side].")
@click.option(
    "--split",
    type=click.Choice(["all", "seen", "unseen"]),
    default="all",
    show_default=True,
    help="Emoji that are trained on, or those held out completely.",
)
@click.option("--count", type=click.IntRange(1), help="Emoji to show [default: 96, or 18 side by side].")
def show(out: Path, style: str | None, split: "EmojiSplit", count: int | None) -> None:
    """Draw a contact sheet of the pictures."""
    from dmedge.data.emoji import load_pack
    from dmedge.data.sheet import draw_sheet

    if out.exists():
        raise DataError(f"{out}: exists already; expected a new file; choose another --out or remove it")
    draw_sheet(load_pack(), style, split, count).save(out, "PNG")
    click.echo(out)
