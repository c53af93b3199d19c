"""dmedge compare: bundles of several runs, and which of them no other beats."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmedge.cli.common import json_option, print_json

if TYPE_CHECKING:
    from dmedge.evidence.compare import Contest


@click.command()
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with a chart too, one HTML file; it must not exist.",
)
@json_option
def compare(folders: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Compare all verified bundles under FOLDERS by size, recall and latency.

    Marks the front: those that no other beats in all three. Only bundles for one target that were judged on the
    same data are compared, and only times of one machine and device with the same threads.
    """
    from dmedge.evidence.compare import compare_folders
    from dmedge.evidence.compare_page import comparison_page
    from dmedge.evidence.report import check_new, write_page

    if out is not None:
        check_new(out)
    found = compare_folders(folders)
    print_json(found.to_json()) if as_json else print_contest(found)
    if out is not None:
        click.echo(write_page(comparison_page(found), out), err=as_json)


def print_contest(contest: "Contest") -> None:
    """One row for each contender, and what was not compared; the data where they were not judged on the same."""
    from rich.console import Console
    from rich.markup import escape
    from rich.measure import Measurement
    from rich.table import Table

    from dmedge.evidence.standing import kept_text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    names = ["front", "artifact", "target", "programs", "recall@10", "kept", "picture + text", "verdict"]
    is_mixed = len({contender.standing.data_sha256 for contender in contest.contenders}) > 1
    for name in [*names, *(["judged on"] if is_mixed else [])]:
        table.add_column(name, no_wrap=True, justify="right" if name in ("programs", "recall@10") else "left")
    for contender in contest.contenders:
        row = contender.standing
        recall = "-" if row.recall_at_10 is None else f"{row.recall_at_10:.4f}"
        times = "\n".join(f"{ms:.3f} ms ({place})" for place, ms in contender.latency_ms.items()) or "not timed"
        mark, style = ("*", "bold") if not contest.beaten_by(contender) else ("", None)
        cells = (row.name, str(row.target), f"{row.program_bytes / 1e6:.2f} MB", recall, kept_text(row.kept), times)
        data = [escape(row.data)] if is_mixed else []
        table.add_row(mark, *map(escape, cells), row.verdict, *data, style=style)
    console = Console(highlight=False)
    width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(highlight=False, width=max(width, console.width)).print(table)
    for note in contest.notes:
        click.echo(f"note: {note}")
