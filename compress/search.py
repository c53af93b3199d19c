"""The budget search: the fewest bits everywhere, and more given back to what rounding hurts most, until it holds."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dmedge.compress.autotune import autotune_plans
from dmedge.compress.budget import Budget, Trial, tolerable_loss
from dmedge.compress.config import CompressConfig
from dmedge.compress.cost_table import METHOD, cost_table
from dmedge.compress.int8 import fit_int4
from dmedge.compress.judge import Judge, Question, mean, with_kept
from dmedge.compress.plan import below, plan_precision
from dmedge.compress.sensitivity import (
    Sensitivity,
    cumulative_variants,
    embedding_sides,
    group_modules,
    measure_sensitivity,
)
from dmedge.data.evalset import EvalSet
from dmedge.errors import ConfigError, VerifyError, require
from dmedge.logs import progress, quieter

logger = logging.getLogger(__name__)
QUANTIZERS = ("dmedge.compress.int8", "dmedge.compress.gptq")  # say something for every group and plan


@dataclass(frozen=True, eq=False)
class Search:
    """What a search tried, in order, and on what."""

    budget: Budget
    data: EvalSet
    baseline: Mapping[str, float]  # recall@10 of every language that counts
    sensitivity: Sequence[Sensitivity]
    trials: Sequence[Trial]

    @property
    def best(self) -> Trial:
        """The trial with the highest score, the first of equals; neural-compressor settles on the same."""
        return max(self.trials, key=lambda trial: trial.score)

    def summary(self) -> dict[str, object]:
        """The trials and the choice, without the sensitivity."""
        return {key: value for key, value in self.to_json().items() if key != "sensitivity"}

    def to_json(self) -> dict[str, Any]:
        """Budget, baseline, sensitivity, trials, and the number of the one that was chosen."""
        worst = min(self.baseline, key=lambda tag: (self.baseline[tag], tag))
        return {
            "budget": asdict(self.budget),
            "data": {"name": self.data.name, "n_texts": len(self.data.texts), "n_images": len(self.data.images)},
            "baseline": {
                "recall_at_10": mean(self.baseline),
                "worst_language": worst,
                "worst_recall_at_10": self.baseline[worst],
            },
            "sensitivity": [one.row() for one in self.sensitivity],
            "trials": [trial.row() for trial in self.trials],
            "chosen": list(self.trials).index(self.best),
            "latency_method": METHOD,
        }

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def search_plan(question: Question) -> Search:
    """Try plans, each of which gives back more than the one before, until one keeps the budget, or all did not.

    Raises:
        ConfigError: there is nothing to quantize that recall would see.
        DataError: the float model finds nothing, so it has nothing to lose.
        DmedgeError: neural-compressor is not installed.
    """
    require("neural_compressor.common", "compress")  # before the slow part
    checkpoint, config = question.checkpoint, question.config
    plan = plan_precision(checkpoint.model, config.keep, int4=config.int4, keep_int8=config.keep_int8)
    sides = embedding_sides(checkpoint.model, [name for name in plan if not name.endswith("_point")])
    groups = group_modules([name for name in sides.names if plan[name] != "float32"])
    if not groups:
        raise ConfigError("keep: leaves no module of the embeddings to quantize; expected one at least; keep fewer")
    short = [group for group in groups if any(plan[name] == "int4_groups" for name in below(group, sides.names))]
    question = replace(question, fits=fit_int4(checkpoint, config, question.calibration))
    sensitivity = _sensitivity(question, groups, short)
    variants = cumulative_variants(sensitivity)
    with _quiet(), progress("plans", total=len(variants)) as advance:
        judge = Judge(
            question,
            cost_table(checkpoint.model, sides),
            lambda trial: advance(note=trial_note(question.budget, trial)),
        )
        loss = tolerable_loss(question.budget)
        autotune_plans(checkpoint.model, variants, judge.carry_out, judge.evaluate, loss)
    return Search(question.budget, question.data, judge.baseline, sensitivity, judge.trials)


def _sensitivity(question: Question, groups: Sequence[str], short: Sequence[str]) -> list[Sensitivity]:
    """Of the groups with int4, the most sensitive first, and then of all groups in int8, likewise."""
    checkpoint, config, calibration = question.checkpoint, question.config, question.calibration
    eights = replace(config, int4=False, keep_int8=())
    with _quiet(), progress("sensitivity", total=len(groups) + len(short)) as advance:
        return [
            *measure_sensitivity(checkpoint, config, calibration, short, advance, question.fits),
            *measure_sensitivity(checkpoint, eights, calibration, groups, advance),
        ]


@contextmanager
def _quiet() -> Iterator[None]:
    with ExitStack() as stack:
        for name in QUANTIZERS:
            stack.enter_context(quieter(name, logging.WARNING))
        yield


def fitting_search(question: Question) -> Search:
    """`search_plan`, whose best plan keeps the budget.

    Raises:
        VerifyError: no plan keeps it; the message names the best that was found.
        DmedgeError: as `search_plan` does.
    """
    search = search_plan(question)
    if not search.best.fits:
        raise VerifyError(miss_message(search, question.config))
    if hint := too_fine(search):
        logger.warning("%s", hint)
    return search


def trial_note(budget: Budget, trial: Trial) -> str:
    """One trial in a few words."""
    missed = ", ".join(
        f"{name.removeprefix('max_')} {getattr(budget, name) + over:.4f} > {getattr(budget, name):g}"
        for name, over in trial.overshoots.items()
    )
    eights = f"{len(trial.kept.int8)} int8, " if trial.kept.int8 else ""
    return f"{eights}{len(trial.kept.float32)} float: {missed or 'fits'}"


def miss_message(search: Search, config: CompressConfig) -> str:
    """What the best plan misses, by how much, and how to make it all the same."""
    best = search.best
    missed = ", ".join(_miss(search.budget, best, name) for name in best.overshoots)
    hint = f"; {found}" if (found := too_fine(search)) else ""
    kept = with_kept(config, best.kept)
    flags = " --int4" if config.int4 else " --int8"
    flags += "".join(f" --keep-int8 {name}" for name in kept.keep_int8) + "".join(
        f" --keep {name}" for name in kept.keep
    )
    return (
        f"no plan of {len(search.trials)} keeps the budget; the best has {missed} (worst language "
        f"{best.cost.worst_language}){hint}; nothing was written; allow more, or make that plan with"
        f"{flags}"
    )


def too_fine(search: Search) -> str:
    """A hint where one text weighs more than the limit of the worst language allows; empty where none does."""
    tag, limit = search.trials[0].cost.worst_language, search.budget.max_drop_worst_language
    texts = search.data.languages.count(tag)
    one_text = 1 / (search.baseline[tag] * texts)
    if limit is None or limit >= one_text:
        return ""
    return (
        f"max_drop_worst_language is {limit:g}, but one of the {texts} texts in {tag} is {one_text:.4f} of its recall; "
        "measure on more, with --search-texts"
    )


def _miss(budget: Budget, trial: Trial, name: str) -> str:
    over = trial.overshoots[name]
    limit = getattr(budget, name)
    return f"{name.removeprefix('max_')} {limit + over:.4f} (limit {limit:g}, over by {over:.4f})"
