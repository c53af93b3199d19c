"""dmedge report: all evidence as one HTML page."""

from pathlib import Path

import click

from dmedge.cli.common import RUNS, default_artifact


@click.command()
@click.argument("place", type=click.Path(path_type=Path), required=False)
@click.option("--markdown", is_flag=True, help="Write Markdown for a pull request; to standard output without --out.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to create; it must not exist; .md is Markdown [default: report.html beside the evidence].",
)
def report(place: Path | None, markdown: bool, out: Path | None) -> None:
    """Write all evidence in PLACE into one self-contained HTML page, or as Markdown.

    PLACE is one piece of evidence, or a directory that holds some [default: where the newest under
    runs/ stands].
    """
    from dmedge.evidence.report import write_page, write_report
    from dmedge.evidence.report_data import REPORTS, collect
    from dmedge.evidence.report_markdown import render_markdown

    chosen = place or default_artifact("evidence", root=RUNS, accept=lambda found: found.stage in REPORTS).root.parent
    is_evidence = (chosen / "manifest.json").is_file()
    if not markdown and (out is None or out.suffix != ".md"):
        click.echo(write_report(chosen, out or (chosen.parent if is_evidence else chosen) / "report.html"))
    elif out is None:
        click.echo(render_markdown(collect(chosen)))
    else:
        click.echo(write_page(render_markdown(collect(chosen)), out))
