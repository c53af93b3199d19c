"""dmedge study: every table on what image, text and fusion are worth."""

from pathlib import Path
from typing import Any

import click

from dmedge.artifact import RUNS, Artifact, load_artifact
from dmedge.cli.common import ArtifactParam, json_option, print_json
from dmedge.cli.train import set_option

DEFAULT = "emoji"  # the checkpoint that ships


class DataParam(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Data by its name, as the settings that name it: emoji, FORMAT:PATH, or a folder with images/ and captions."""

    name = "data"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Settings, "key=value" each; a usage error where there is no such format."""
        from json import dumps

        from dmedge.config import near_match
        from dmedge.data.readers import FORMATS

        if not isinstance(value, str):
            return list(value)
        if value == "emoji":
            return ["data=emoji"]
        format, colon, path = value.partition(":") if not Path(value).exists() else ("folder", ":", value)
        if not colon or format not in FORMATS:
            self.fail(f"{value!r}: no such folder, and no data format {format!r}{near_match(format, list(FORMATS))}")
        return [f"data={format}", f"dataset.path={dumps(path)}"]


@click.command()
@click.argument("checkpoint", type=ArtifactParam("checkpoint"), required=False)
@click.option("--recipe", default="study", show_default=True, help="Settings: study, quick, or a TOML file.")
@click.option("--quick", is_flag=True, help="Too little of everything to conclude from; short for --recipe quick.")
@click.option(
    "--data",
    type=DataParam(),
    metavar="DATA",
    help="emoji, a FOLDER with images/ and captions, or FORMAT:PATH such as coco:DIR, flickr30k:DIR or vqa:DIR; short "
    "for --set data=FORMAT --set dataset.path=PATH [default: that of the recipe].",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Directory to create [default: runs/study, with the names of recipe and data].",
)
@set_option
@json_option
def study(
    checkpoint: Artifact | None,
    recipe: str,
    quick: bool,
    data: list[str] | None,
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
    config = load_study(name, [*(data or []), *overrides])
    place = RUNS / "-".join(["study", *([Path(name).stem] if name != "study" else []), *config.names()])
    made = run_study(checkpoint or load_artifact(DEFAULT), config, out or place)
    if as_json:
        print_json({"path": made.root, "digest": made.digest, "summary": dict(made.manifest.summary)})
        return
    for line in headlines(made.manifest.summary):
        click.echo(line)
    click.echo(f"{made.root / 'study.html'}")
