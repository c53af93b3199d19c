"""Recipes: the stages of a run in their order, each with its own settings, and the budget that judges the result.

Every stage reads the nearest artifact above it of the kind that it needs: `compress` and `export` the
last checkpoint, `verify` and `bench` the last bundle, beside the last checkpoint that `train` made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from dmedge.compress.config import artifact_name
from dmedge.config import apply_overrides, find_recipe, load_config, near_match, read_toml
from dmedge.errors import ConfigError
from dmedge.evidence.verdict import Budget
from dmedge.variants import bundle_name

StageKind = Literal["train", "compress", "export", "verify", "bench"]
KEYS = ("name", "description", "stage", "budget")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a recipe."""

    kind: StageKind
    name: str  # of the directory that it writes, inside that of the run
    config: Any  # the settings of its kind, e.g. a TrainConfig


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to run, and what the result may cost."""

    name: str
    stages: tuple[Stage, ...]
    budget: Budget
    description: str = ""

    def first(self, kind: StageKind) -> Stage:
        """The first stage of a kind.

        Raises:
            ConfigError: there is none.
        """
        for stage in self.stages:
            if stage.kind == kind:
                return stage
        raise ConfigError(f"recipe {self.name!r}: has no {kind} stage; expected one; add [[stage]] kind = {kind!r}")


def _train_config() -> type[Any]:
    from dmedge.training.config import TrainConfig

    return TrainConfig


def _compress_config() -> type[Any]:
    from dmedge.compress.config import CompressConfig

    return CompressConfig


def _export_config() -> type[Any]:
    from dmedge.export.config import ExportConfig

    return ExportConfig


def _verify_config() -> type[Any]:
    from dmedge.evidence.config import VerifyConfig

    return VerifyConfig


def _bench_config() -> type[Any]:
    from dmedge.evidence.config import BenchConfig

    return BenchConfig


CONFIGS: Mapping[StageKind, Callable[[], type[Any]]] = {
    "train": _train_config,
    "compress": _compress_config,
    "export": _export_config,
    "verify": _verify_config,
    "bench": _bench_config,
}

# What must stand above a stage: kind -> (the stage that makes it, what that is called).
_NEEDS: Mapping[StageKind, tuple[StageKind, str]] = {
    "compress": ("train", "a checkpoint"),
    "export": ("train", "a checkpoint"),
    "verify": ("export", "a bundle"),
    "bench": ("export", "a bundle"),
}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, put overrides in, and check every setting before anything runs.

    Args:
        name_or_path: a name that ships with dmedge, or a TOML file.
        overrides: "STAGE.key=value", where STAGE is the name, target or kind of a stage if it is the
            only one called so, or "stage.0" and so on; or "budget.key=value".

    Raises:
        ConfigError: there is no such recipe, or a key or value does not fit; near matches are named.
    """
    path = find_recipe(name_or_path)
    table = read_toml(path)
    called = _called(table)
    overridden = apply_overrides(table, [_by_number(override, called) for override in overrides])
    return build_recipe(overridden, where=path.name, default_name=path.stem)


def build_recipe(table: Mapping[str, Any], *, where: str, default_name: str = "recipe") -> Recipe:
    """A recipe from its table.

    Raises:
        ConfigError: a key or value does not fit, or the stages are in no possible order.
    """
    named = _named_stages(table)
    if not named:
        raise ConfigError(
            f"{where}: holds no stage, only {list(table)}; expected [[stage]] tables, as in docs/recipes.md"
        )
    for key in table:
        if key not in KEYS:
            known = dict.fromkeys([*KEYS, *(name for names in _called(table) for name in names)])
            raise ConfigError(f"{where}: unknown key {key!r}{near_match(key, list(known))}")
    stages: list[Stage] = []
    for number, (entry, name) in enumerate(named):
        stages.append(_build_stage(entry, name, stages, f"{where}: stage {number}"))
    name, description = table.get("name", default_name), table.get("description", "")
    if not _is_plain(name):
        raise ConfigError(f"{where}: name is {name!r}; expected a plain directory name")
    if not isinstance(description, str):
        raise ConfigError(f"{where}: description is {description!r}; expected text")
    budget = load_config(Budget, table.get("budget", {}), where=f"{where}: budget")
    return Recipe(name, tuple(stages), budget, description)


def _build_stage(entry: Mapping[str, Any], name: object, above: Sequence[Stage], where: str) -> Stage:
    """One stage, checked against those above it."""
    kind = next((known for known in CONFIGS if known == entry.get("kind")), None)
    if kind is None:
        raise ConfigError(f"{where}: kind is {entry.get('kind')!r}{near_match(str(entry.get('kind')), list(CONFIGS))}")
    where = f"{where} ({kind})"
    if kind in _NEEDS and not any(stage.kind == _NEEDS[kind][0] for stage in above):
        maker, what = _NEEDS[kind]
        raise ConfigError(f"{where}: nothing above it makes {what}; put a stage of kind {maker!r} before it")
    settings = {key: value for key, value in entry.items() if key not in ("kind", "name")}
    config = load_config(CONFIGS[kind](), settings, where=where)
    if not _is_plain(name):
        raise ConfigError(f"{where}: name is {name!r}; expected a plain directory name")
    if any(stage.name == name for stage in above):
        raise ConfigError(f"{where}: {name!r} is taken by a stage above it; give it a name of its own")
    return Stage(kind, name, config)


def _is_plain(name: object) -> TypeGuard[str]:
    """Whether a directory may be called so, inside the one that holds it and seen by all."""
    return isinstance(name, str) and name != "" and name == Path(name).name and not name.startswith(".")


def _named_stages(table: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], object]]:
    """Each stage table with its name; those without one are called after what they make."""
    stages = table.get("stage")
    if not isinstance(stages, list) or not all(isinstance(entry, Mapping) for entry in stages):
        return []
    named: list[tuple[Mapping[str, Any], object]] = []
    bundle: object = "bundle"
    for entry in stages:
        kind = entry.get("kind")
        made = {"train": "baseline", "compress": artifact_name(entry), "export": _bundle_name(entry)}
        name = entry.get("name", made.get(str(kind), f"{bundle}-{kind}"))
        bundle = name if kind == "export" else bundle
        named.append((entry, name))
    return named


def _bundle_name(entry: Mapping[str, Any]) -> object:
    target, variant = entry.get("target"), entry.get("variant", "full")
    return bundle_name(target, variant) if isinstance(target, str) and isinstance(variant, str) else target


def _called(table: Mapping[str, Any]) -> list[set[str]]:
    """What each stage may be called in an override: its name, its target, its kind."""
    return [{str(name), str(entry.get("target", name)), str(entry.get("kind"))} for entry, name in _named_stages(table)]


def _by_number(override: str, called: Sequence[set[str]]) -> str:
    """Turn "int8.seed=1" into "stage.1.seed=1" where one stage is called so."""
    head, dot, rest = override.partition(".")
    found = [number for number, names in enumerate(called) if head in names]
    if not dot or "=" in head or head in KEYS or not found:
        return override
    if len(found) > 1:
        numbers = ", ".join(f"stage.{number}" for number in found)
        raise ConfigError(f"--set {override}: {head!r} may be any of {numbers}; expected one; say which of them")
    return f"stage.{found[0]}.{rest}"
