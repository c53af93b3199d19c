"""The demo: one recipe from the first training step to a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.flow.atomic import write_atomically
from dmedge.flow.recipe import Recipe, load_recipe
from dmedge.flow.run import Outcome, run_recipe
from dmedge.flow.table import Row, table_rows

RECIPE = "emoji-quick"
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo made."""

    outcomes: tuple[Outcome, ...]
    rows: tuple[Row, ...]
    report: Path


def load_demo(overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the demo.

    Raises:
        ConfigError: an override does not fit.
    """
    return load_recipe(RECIPE, overrides)


def run_demo(recipe: Recipe, out: Path) -> Demo:
    """Run `recipe` into `out`, and write its report there anew.

    Raises:
        ArtifactError: something else stands in `out`.
        DmedgeError: a stage failed.
    """
    outcomes = run_recipe(recipe, out)
    page = render(collect(out)).encode("utf-8")
    write_atomically(out / REPORT, lambda stream: stream.write(page))
    return Demo(outcomes, table_rows(outcomes), out / REPORT)


def announcement(recipe: Recipe, out: Path) -> list[str]:
    """What is about to happen, in words."""
    train = recipe.first("train").config
    targets = " and ".join(stage.config.target for stage in recipe.stages if stage.kind == "export")
    return [
        f"Trains an emoji search model from scratch ({train.steps} steps), quantizes it to int8, exports it for",
        f"{targets}, and compares both with full precision in every language.",
        f"Everything goes to {out}. On two cores it takes about ten minutes; stopped, it goes on where it stood.",
    ]


def next_steps(outcomes: Sequence[Outcome], report: Path) -> list[str]:
    """What to try next."""
    bundles = [outcome.artifact.root for outcome in outcomes if outcome.stage.kind == "export"]
    return [
        f"report  {report} (open it in a browser)",
        f'search  dmedge search {bundles[0]} "ramen"',
        f"look    dmedge info {bundles[0]}",
    ]
