"""dmedge run: all stages of a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmedge.artifact import RUNS
from dmedge.cli.common import json_option, print_json
from dmedge.cli.tables import text_table
from dmedge.cli.train import set_option
from dmedge.errors import VerifyError

if TYPE_CHECKING:
    from dmedge.flow.run import Outcome


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the run [default: runs/NAME].")
@set_option
@json_option
def run(recipe: str, out: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Run all stages of RECIPE, a name that ships with dmedge or a TOML file, each into OUT/NAME.

    What stands already with the same settings is kept, so a run that was stopped goes on where it
    stood. Settings are named by stage, e.g. --set train.steps=200 --set budget.latency_ratio=1.

    Exits with 3 if a verdict is fail, after the last stage.
    """
    from dmedge.flow.recipe import load_recipe
    from dmedge.flow.run import run_recipe

    chosen = load_recipe(recipe, overrides)
    outcomes = run_recipe(chosen, out or RUNS / chosen.name)
    if as_json:
        print_json([facts(outcome) for outcome in outcomes])
    else:
        _print_table(outcomes)
    fail_on(outcomes)


def facts(outcome: "Outcome") -> dict[str, object]:
    """What `--json` prints of a stage."""
    return {
        "stage": outcome.stage.name,
        "kind": outcome.stage.kind,
        "path": outcome.artifact.root,
        "digest": outcome.artifact.digest,
        "kept": outcome.is_kept,
        "verdict": outcome.verdict,
        "summary": dict(outcome.artifact.manifest.summary),
    }


def fail_on(outcomes: Sequence["Outcome"]) -> None:
    """Raise if any evidence says fail.

    Raises:
        VerifyError: one does; the message names it and the budget lines.
    """
    failed = [
        f"{outcome.artifact.root} ({', '.join(map(str, _failed_lines(outcome)))})"
        for outcome in outcomes
        if outcome.verdict == "fail"
    ]
    if failed:
        raise VerifyError(f"verdict fail: {', '.join(failed)}; expected pass; see the report, or dmedge verify --help")


def _failed_lines(outcome: "Outcome") -> Sequence[object]:
    lines = outcome.artifact.manifest.summary.get("failed", ())
    return lines if isinstance(lines, (list, tuple)) and lines else ("its budget",)


def _print_table(outcomes: Sequence["Outcome"]) -> None:
    rows = [
        [
            outcome.stage.kind,
            str(outcome.artifact.root),
            "kept" if outcome.is_kept else "made",
            outcome.verdict or "",
        ]
        for outcome in outcomes
    ]
    click.echo(text_table(["stage", "artifact", "", "verdict"], rows, left=4))
