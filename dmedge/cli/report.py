"""dmedge report: all evidence as one HTML page."""

from pathlib import Path

import click

from dmedge.cli.common import RUNS, default_artifact


@click.command()
@click.argument("places", type=click.Path(path_type=Path), nargs=-1)
@click.option("--markdown", is_flag=True, help="Write Markdown for a pull request; to standard output without --out.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to create; it must not exist; .md is Markdown [default: report.html beside the first].",
)
def report(places: tuple[Path, ...], markdown: bool, out: Path | None) -> None:
    """Write all evidence in PLACES into one self-contained HTML page, or as Markdown.

    Each is one piece of evidence, or a directory that holds some, such as a run [default: where the newest under
    runs/ stands].
    """
    from dmedge.evidence.report import write_page, write_report
    from dmedge.evidence.report_data import REPORTS, collect
    from dmedge.evidence.report_markdown import render_markdown

    if not places:
        newest = default_artifact("evidence", root=RUNS, accept=lambda found: found.stage in REPORTS)
        places = (newest.root.parent,)
    if not markdown and (out is None or out.suffix != ".md"):
        click.echo(write_report(places, out or _beside(places[0])))
    elif out is None:
        click.echo(render_markdown(collect(*places)))
    else:
        click.echo(write_page(render_markdown(collect(*places)), out))


def _beside(place: Path) -> Path:
    """Where the page goes: into a directory of evidence, or beside one piece."""
    return (place.parent if (place / "manifest.json").is_file() else place) / "report.html"
