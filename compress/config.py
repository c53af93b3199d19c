"""Settings of the `compress` stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

StudentSize = Literal["", "medium", "small", "tiny"]
PruneScope = Literal["global", "layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnConfig:
    """How a student, or a model that was pruned, learns from its teacher.

    `feature_weight` is for the embeddings themselves, where teacher and student have as many numbers;
    `relation_weight` for the similarities among the items of a batch; `logit_weight` for the
    probabilities of the concepts; `task_weight` for the labels. A teacher that reads other tokens says
    only what it makes of `pivot_language`, and every other language is pulled towards that.
    """

    steps: int = 800
    fusion_steps: int = 200
    batch_size: int = 96
    texts_per_image: int = 4
    learning_rate: float = 1e-3
    feature_weight: float = 1.0
    relation_weight: float = 1.0
    logit_weight: float = 1.0
    task_weight: float = 1.0
    pivot_language: str = "en"

    def __post_init__(self) -> None:
        for name in ("steps", "fusion_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        weights = ("feature_weight", "relation_weight", "logit_weight", "task_weight")
        if min(getattr(self, name) for name in weights) < 0:
            raise ValueError(f"{', '.join(weights)}: one is less than 0; expected 0 or more")
        if self.batch_size < 2 or self.texts_per_image < 1 or self.learning_rate <= 0:
            raise ValueError(
                f"batch_size {self.batch_size}, texts_per_image {self.texts_per_image}, learning_rate "
                f"{self.learning_rate}; expected 2 or more, 1 or more, more than 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressConfig:
    """What to do to a checkpoint, in this order: trim its vocabulary, distil, prune, quantize.

    `languages` trims the vocabulary to the pieces that text in these languages uses; for each of them the
    kept pieces make up at least `coverage` of its text. What learns after that is shown these languages
    alone. `student` makes the model smaller in width and depth; `distill` names the teacher that it then
    learns from: a checkpoint, "parent" for the one that is compressed, a file of embeddings, or
    "universal-sentence-encoder". `prune` takes that share of the channels, hidden units and heads out of
    both towers, the least important of all ("global") or of each module ("layer"), and lets the rest
    recover; `learn` says how. With `smooth` large channels hand their size to the weights before int8,
    where that helps; with `qat` the model learns with weights and fixed ranges rounded. `int4` is int8,
    which it sets too, with 4-bit weights in linears, fitted by GPTQ, or with `qat` rounded as the model
    learnt to bear it. `keep` names modules that stay float32, `keep_int8` some that stay int8 beside
    `int4`; a name stands for all that lies below it. Any of the `max_*` limits has both search for a plan
    that keeps them all, by relative drops of recall on `search_texts` of every language.

    Calibration draws `calibration_items` pictures and texts, as many of each language, from `data`, where
    all text and pictures to learn from come from too: "emoji", of which only what was trained on is
    taken, or a folder with images and captions. `ledger_texts` of every language measure what each step
    cost; 0 leaves that out.
    """

    student: StudentSize = ""
    distill: str = ""
    prune: float = 0.0
    prune_scope: PruneScope = "global"
    learn: LearnConfig = field(default_factory=LearnConfig)
    languages: tuple[str, ...] = ()
    coverage: float = 1.0
    int8: bool = False
    int4: bool = False
    smooth: bool = False
    qat: bool = False
    keep: tuple[str, ...] = ()
    keep_int8: tuple[str, ...] = ()
    calibration_items: int = 256
    ledger_texts: int = 40
    max_drop: float | None = None
    max_drop_worst_language: float | None = None
    max_size_mb: float | None = None
    max_latency_ratio: float | None = None
    search_texts: int = 40
    seed: int = 0
    data: str = "emoji"

    def __post_init__(self) -> None:
        if self.int4:
            object.__setattr__(self, "int8", True)
        if not any((self.student, self.distill, self.prune, self.languages, self.int8)):
            raise ValueError("there is nothing to do; set int8 = true, languages, prune, distill or student")
        if self.student not in get_args(StudentSize):
            raise ValueError(f"student is {self.student!r}; expected medium, small or tiny")
        if self.student and not self.distill:
            raise ValueError("a student without a teacher; expected one; set distill to a checkpoint")
        for name in ("smooth", "qat"):
            if getattr(self, name) and not self.int8:
                raise ValueError(f"{name} without int8; expected both; set int8 = true")
        if self.keep_int8 and not self.int4:
            raise ValueError("keep_int8 without int4; expected both: without it all is int8 anyway; set int4 = true")
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune is {self.prune}; expected a share from 0 to below 1")
        if self.prune_scope not in get_args(PruneScope):
            raise ValueError(f"prune_scope is {self.prune_scope!r}; expected global or layer")
        if not 0 < self.coverage <= 1:
            raise ValueError(f"coverage is {self.coverage}; expected a share of more than 0, at most 1")
        if self.calibration_items < 1:
            raise ValueError(f"calibration_items is {self.calibration_items}; expected 1 or more")
        if self.ledger_texts < 0:
            raise ValueError(f"ledger_texts is {self.ledger_texts}; expected 0 or more")
        _check_budget(self)


def _check_budget(config: CompressConfig) -> None:
    """Refuse limits that mean nothing.

    Raises:
        ValueError: a limit is out of range, or nothing can be searched for.
    """
    names = ("max_drop", "max_drop_worst_language", "max_size_mb", "max_latency_ratio")
    limits = {name: limit for name in names if (limit := getattr(config, name)) is not None}
    for name, limit in limits.items():
        if not config.int8:
            raise ValueError(f"{name} without int8; expected both; set int8 = true")
        if config.qat:
            raise ValueError(f"{name} with qat; expected one of them; search first, then train with the plan as keep")
        if name.startswith("max_drop") and not 0 <= limit < 1:
            raise ValueError(f"{name} is {limit}; expected a share from 0 to below 1, such as 0.01 for 1 %")
        if not name.startswith("max_drop") and not limit > 0:
            raise ValueError(f"{name} is {limit}; expected more than 0")
    if config.search_texts < 1:
        raise ValueError(f"search_texts is {config.search_texts}; expected 1 or more")


def artifact_name(settings: Mapping[str, object]) -> str:
    """What to call a checkpoint that was made with `settings`."""
    size = settings.get("student") or "distilled"
    parts = {
        str(size): settings.get("distill"),
        "pruned": settings.get("prune"),
        "trimmed": settings.get("languages"),
        "int4" if settings.get("int4") else "int8": settings.get("int8"),
    }
    return "-".join(part for part, is_asked in parts.items() if is_asked) or "compressed"
