"""dmedge demo: the whole way, small."""

from pathlib import Path

import click

from dmedge.artifact import RUNS
from dmedge.cli.common import json_option, print_json
from dmedge.cli.run import facts, fail_on
from dmedge.cli.train import set_option


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=RUNS / "demo", show_default=True, help="Directory of the run."
)
@click.option("--steps", type=click.IntRange(min=1), help="Training steps [default: those of the recipe emoji-quick].")
@set_option
@json_option
def demo(out: Path, steps: int | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Train a model from scratch, compress, export, verify and bench it, and write a report.

    This is the recipe emoji-quick, so --set works as with dmedge run. What stands already with the
    same settings is kept. Exits with 3 if a verdict is fail.
    """
    from dmedge.flow.demo import announcement, load_demo, next_steps, run_demo
    from dmedge.flow.table import draw_table, rows_json

    recipe = load_demo([*overrides, *([f"train.steps={steps}"] if steps else [])])
    click.echo("\n".join(announcement(recipe, out)), err=True)
    result = run_demo(recipe, out)
    if as_json:
        stages = [facts(outcome) for outcome in result.outcomes]
        print_json({"table": rows_json(result.rows), "report": result.report, "stages": stages})
    else:
        from rich.console import Console

        Console(highlight=False).print(draw_table(result.rows, str(out)))
        click.echo("\n".join(next_steps(result.outcomes, result.report)), err=True)
    fail_on(result.outcomes)
