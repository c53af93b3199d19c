"""dmedge train: the train stage of a recipe."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmedge.artifact import Artifact
from dmedge.cli.common import RUNS, json_option, print_json
from dmedge.flow.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from dmedge.training.summary import RunSummary

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be given several times."
)


@click.command()
@click.argument("recipe", default="emoji")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to create [default: runs/NAME].")
@set_option
@click.option("--steps", type=click.IntRange(min=1), help="Train so many steps, whatever the recipe says of epochs.")
@click.option("--resume", is_flag=True, help="Continue a run that was stopped; an error where there is none.")
@json_option
def train(
    recipe: str, out: Path | None, overrides: tuple[str, ...], steps: int | None, resume: bool, as_json: bool
) -> None:
    """Train a model by RECIPE: a name that ships with dmedge, or a TOML file [default: emoji].

    A run that was stopped goes on where it stood when it is started again with the same settings.
    Settings are those of the recipe's train stage, e.g. --set learning_rate=1e-3 --set model.text=bag.
    On several GPUs or machines: torchrun --nproc-per-node N -m dmedge train RECIPE.
    """
    chosen = load_train_recipe(recipe, [*overrides, *([f"steps={steps}", "epochs=0"] if steps else [])])
    from dmedge.training.places import log_folder
    from dmedge.training.summary import read_summary
    from dmedge.training.train import train as train_model

    place = out or RUNS / chosen.name
    artifact = train_model(chosen.first("train").config, place, must_resume=resume)
    if not is_first_process():
        return
    summary = read_summary(log_folder(place))
    if as_json:
        print_json({**facts(artifact), "summary": asdict(summary)})
    else:
        print_result(artifact, summary, log_folder(place))


def is_first_process() -> bool:
    """Whether this process is the only one, or the first that torchrun started; the others print nothing."""
    return os.environ.get("RANK", "0") == "0"


def load_train_recipe(name_or_path: str, overrides: Sequence[str]) -> Recipe:
    """The recipe with overrides of its train stage.

    Raises:
        ConfigError: there is no such recipe, or a setting does not fit.
    """
    return load_recipe(name_or_path, [f"train.{override}" for override in overrides])


def last_validation(artifact: Artifact) -> dict[str, Any]:
    """Figures of the last evaluation of a training run, as its manifest keeps them."""
    history = artifact.manifest.summary.get("validation")
    return dict(history[-1]) if isinstance(history, (list, tuple)) and history else {}


def facts(artifact: Artifact) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "path": artifact.root,
        "digest": artifact.digest,
        "parameters": artifact.manifest.summary.get("parameters"),
        "validation": last_validation(artifact),
    }


def print_result(artifact: Artifact, summary: "RunSummary", log: Path) -> None:
    """The path, what was measured on the validation data, and what the run has cost."""
    click.echo(artifact.root)
    for name, value in last_validation(artifact).items():
        click.echo(f"  {name.replace('_', ' '):30} {value:.4g}")
    for label, text in summary.lines():
        click.echo(f"  {label:30} {text}")
    click.echo(f"  {'log':30} {log}")
