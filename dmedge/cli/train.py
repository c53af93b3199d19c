"""dmedge train: the train stage of a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dmedge.artifact import Artifact
from dmedge.cli.common import RUNS, json_option, print_json
from dmedge.flow.recipe import Recipe, load_recipe

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be given several times."
)


@click.command()
@click.argument("recipe", default="emoji")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to create [default: runs/NAME].")
@set_option
@click.option("--steps", type=click.IntRange(min=1), help="Short for --set steps=N.")
@json_option
def train(recipe: str, out: Path | None, overrides: tuple[str, ...], steps: int | None, as_json: bool) -> None:
    """Train a model by RECIPE: a name that ships with dmedge, or a TOML file [default: emoji].

    A run that was stopped goes on where it stood when it is started again with the same settings.
    Settings are those of the recipe's train stage, e.g. --set learning_rate=1e-3 --set model.text=bag.
    """
    chosen = load_train_recipe(recipe, [*overrides, *([f"steps={steps}"] if steps else [])])
    from dmedge.training.train import train as train_model

    artifact = train_model(chosen.first("train").config, out or RUNS / chosen.name)
    if as_json:
        print_json(facts(artifact))
    else:
        print_result(artifact)


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


def print_result(artifact: Artifact) -> None:
    """The path, and what was measured on the validation style."""
    click.echo(artifact.root)
    for name, value in last_validation(artifact).items():
        click.echo(f"  {name.replace('_', ' '):30} {value:.4g}")
