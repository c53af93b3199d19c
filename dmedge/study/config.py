"""Settings of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from json import dumps
from pathlib import Path
from typing import Any

from dmedge.config import apply_overrides, load_config, near_match, read_toml
from dmedge.data.readers import FORMATS
from dmedge.data.records import DatasetConfig
from dmedge.errors import ConfigError

EMOJI = "emoji"  # the data that ships
RECIPES = Path(__file__).parent / "recipes"

AT_LEAST_ONE = (
    *("seeds", "train_pairs", "test_pairs", "views", "head_steps", "head_batch", "scratch_steps", "scratch_batch"),
    *("texts_per_language", "robustness_pairs", "attention_pairs", "long_descriptions", "bench_rounds", "candidates"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """How much of everything a study measures.

    `data` is "emoji", or the format of the records that `dataset` names, as in a recipe of training; `test`
    names those to judge on. A pair is a picture and one text; the task is to name its class. Pictures of the
    emoji are degraded and their texts are keywords. `views` are degraded
    copies of every training picture. `head_steps` train the head of one variant on the frozen towers,
    once for each of `seeds`; `scratch_steps` train a whole model of the comparison. `candidates` are the
    pictures among which one text of that comparison finds its own.
    """

    data: str = EMOJI
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    test: DatasetConfig | None = None  # None: the split that the format has for it, else a part held out
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
        if self.data not in (EMOJI, *FORMATS):
            raise ValueError(f"data is {self.data!r}{near_match(self.data, [EMOJI, *FORMATS])}")
        if self.data == EMOJI and (self.dataset.path or self.test is not None):
            raise ValueError(f"data is {EMOJI!r}, and dataset or test is set; expected data to be their format; set it")
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

    def names(self) -> list[str]:
        """What the folder of a study is called after, beside its recipe."""
        return [] if self.data == EMOJI else [self.data]

    def changes(self) -> list[str]:
        """What differs from the defaults, as "key=value" each, which `load_study` takes."""
        own, usual = (_flat(asdict(config)) for config in (self, type(self)()))
        return [f"{key}={dumps(value, ensure_ascii=False)}" for key, value in own.items() if usual.get(key) != value]


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their dotted names; those that are None are none."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return {key: value for key, value in found.items() if value is not None}


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
