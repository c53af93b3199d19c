"""dmedge report: all evidence as one HTML page."""

from pathlib import Path

import click

from dmedge.cli.common import RUNS, default_artifact


@click.command()
@click.argument("place", type=click.Path(path_type=Path), required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to create; it must not exist [default: report.html beside the evidence].",
)
def report(place: Path | None, out: Path | None) -> None:
    """Write all evidence in PLACE into one self-contained HTML page.

    PLACE is one piece of evidence, or a directory that holds some [default: where the newest under
    runs/ stands].
    """
    from dmedge.evidence.report import write_report

    chosen = place or default_artifact("evidence", root=RUNS).root.parent
    is_evidence = (chosen / "manifest.json").is_file()
    click.echo(write_report(chosen, out or (chosen.parent if is_evidence else chosen) / "report.html"))
