"""Settings of a study."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmedge.config import apply_overrides, load_config, near_match, read_toml
from dmedge.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"

AT_LEAST_ONE = (
    *("seeds", "train_pairs", "test_pairs", "views", "head_steps", "head_batch", "scratch_steps", "scratch_batch"),
    *("texts_per_language", "robustness_pairs", "attention_pairs", "long_descriptions", "bench_rounds", "candidates"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """How much of everything a study measures.

    A pair is a degraded picture and one keyword; the task is to name its class. `views` are degraded
    copies of every training picture. `head_steps` train the head of one variant on the frozen towers,
    once for each of `seeds`; `scratch_steps` train a whole model of the comparison. `candidates` are the
    pictures among which one text of that comparison finds its own.
    """

    seed: int = 0
    seeds: int = 3
    train_pairs: int = 60_000
    test_pairs: int = 4_000
    views: int = 2
    head_steps: int = 300
    head_batch: int = 256
    head_learning_rate: float = 2e-3
    scratch_steps: int = 400
    scratch_batch: int = 64
    scratch_learning_rate: float = 1e-3
    candidates: int = 50
    texts_per_language: int = 200
    robustness_pairs: int = 500
    attention_pairs: int = 300
    long_descriptions: int = 400
    bench_rounds: int = 7

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("head_learning_rate", "scratch_learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.seeds < 2:
            raise ValueError(f"seeds is {self.seeds}; an interval over seeds needs 2 or more")
        if min(self.head_batch, self.scratch_batch, self.candidates) < 2:
            raise ValueError("head_batch, scratch_batch and candidates are 2 or more; expected pairs to tell apart")


def study_recipes() -> list[str]:
    """Names of the studies that ship with dmedge, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_study(name_or_path: str, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read the settings of a study, and put overrides in.

    Args:
        name_or_path: one that ships with dmedge, or a TOML file.
        overrides: "key=value" each.

    Raises:
        ConfigError: there is no such recipe, or a key or value does not fit.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in study_recipes():
            raise ConfigError(f"no study {name_or_path!r}{near_match(name_or_path, study_recipes())}")
        path = RECIPES / f"{name_or_path}.toml"
    table = apply_overrides(read_toml(path), overrides)
    return load_config(StudyConfig, table, where=path.name)
