"""The options that say what a bundle may cost: a recipe, files of limits, and single limits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmedge.artifact import Artifact
    from dmedge.evidence.verdict import Budget


class LimitsParam(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """One limit as KEY=VALUE, or a TOML file of limits."""

    name = "limits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself: what it means is an error of the settings, not of usage."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of limits and files."""
        from dataclasses import fields

        from dmedge.evidence.verdict import Budget

        names = [f"{field.name}=" for field in fields(Budget) if field.name.startswith(incomplete)]
        # Files first: a shell that is told to complete them forgets the names before.
        return [CompletionItem(incomplete, type="file"), *map(CompletionItem, names)]


recipe_option = click.option("--recipe", metavar="NAME_OR_PATH", help="Take the budget of this recipe.")
budget_option = click.option(
    "--budget",
    "limits",
    type=LimitsParam(),
    multiple=True,
    metavar="KEY=VALUE|FILE",
    help="Change one limit, e.g. program_size_ratio=0.35, or those of a TOML file; may be given several times.",
)


def read_budget(recipe: str | None, limits: "Sequence[str]", bundle: "Artifact | None" = None) -> "Budget":
    """The limits of a recipe, of a bundle, or the defaults, with some of them changed; what comes later counts.

    Args:
        recipe: whose table [budget] to begin with.
        limits: "key=value", or the path of a TOML file with a table [budget] or with limits alone.
        bundle: whose budget to begin with where no recipe is named.

    Raises:
        ConfigError: there is no such recipe, file or limit.
    """
    from dmedge.config import apply_overrides, find_recipe, load_config, read_toml
    from dmedge.errors import ConfigError
    from dmedge.evidence.verdict import Budget, budget_of, changed_limits

    if recipe:
        table: dict[str, Any] = dict(read_toml(find_recipe(recipe)).get("budget", {}))
    else:
        table = changed_limits(budget_of(bundle.manifest.summary)) if bundle else {}
    for text in limits:
        if Path(text).is_file() or text.endswith(".toml"):
            table |= _limits_in(Path(text))
        elif "=" in text:
            table = apply_overrides(table, [text])
        else:
            raise ConfigError(
                f"--budget {text}: no such file; expected KEY=VALUE, such as program_size_ratio=0.35, or a TOML file"
            )
    return load_config(Budget, table, where="budget")


def _limits_in(path: Path) -> dict[str, Any]:
    """The limits of one file, each checked, so that a message names the file."""
    from dmedge.config import load_config, near_match, read_toml
    from dmedge.errors import ConfigError
    from dmedge.evidence.verdict import Budget
    from dmedge.flow.recipe import KEYS

    table = read_toml(path)
    limits = table.get("budget", table)
    if "budget" not in table and "stage" in table:
        raise ConfigError(f"{path}: a recipe without [budget]; expected that table; add it, or leave out --budget")
    if "budget" in table and (strange := [key for key in table if key not in KEYS]):
        raise ConfigError(f"{path}: unknown key {strange[0]!r} beside [budget]{near_match(strange[0], KEYS)}")
    if not isinstance(limits, dict):
        raise ConfigError(f"{path}: budget is {limits!r}; expected a table [budget]")
    load_config(Budget, limits, where=str(path))
    return limits
