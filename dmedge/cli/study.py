"""dmedge study: every table on what image, text and fusion are worth."""

from pathlib import Path

import click

from dmedge.artifact import RUNS, Artifact, load_artifact
from dmedge.cli.common import ArtifactParam, json_option, print_json
from dmedge.cli.train import set_option

DEFAULT = "emoji"  # the checkpoint that ships


@click.command()
@click.argument("checkpoint", type=ArtifactParam("checkpoint"), required=False)
@click.option("--recipe", default="study", show_default=True, help="Settings: study, quick, or a TOML file.")
@click.option("--quick", is_flag=True, help="Too little of everything to conclude from; short for --recipe quick.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Directory to create [default: runs/study, or runs/study-NAME]."
)
@set_option
@json_option
def study(
    checkpoint: Artifact | None,
    recipe: str,
    quick: bool,
    out: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what image, text, attention and fusion are worth to CHECKPOINT [default: the one that ships].

    Writes OUT/study.html, study.md and study.json, each figure with n and interval. Finished parts are
    kept in OUT.steps: a study that was stopped goes on where it stood.
    """
    from dmedge.study.config import load_study
    from dmedge.study.study import study as run_study
    from dmedge.study.words import headlines

    if quick and recipe not in ("study", "quick"):
        raise click.UsageError(f"--quick and --recipe {recipe}; expected one of them; leave one out")
    name = "quick" if quick else recipe
    place = RUNS / ("study" if name == "study" else f"study-{Path(name).stem}")
    made = run_study(checkpoint or load_artifact(DEFAULT), load_study(name, overrides), out or place)
    if as_json:
        print_json({"path": made.root, "digest": made.digest, "summary": dict(made.manifest.summary)})
        return
    for line in headlines(made.manifest.summary):
        click.echo(line)
    click.echo(f"{made.root / 'study.html'}")
