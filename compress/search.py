"""The search for a plan inside a budget: neural-compressor's auto-tuning over plans that our quantizer carries out.

neural-compressor knows algorithms by the name of their configuration. Ours is a plan, described by the groups of
modules that stay float32; its algorithm is our quantizer. Plans are tried from all-int8 on, each giving float32 back
to the next most sensitive group, until one keeps every limit.

neural-compressor stops where a score has lost no more than a *relative* tolerance against that of the float model. The
score is 1 where every limit is kept, so the tolerance is 0.
"""

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.compress.budget import Limits, Trial, missed_words, relative_drop, worst_drop
from dmedge.compress.cost_table import Cost, latency_ratio
from dmedge.compress.plan import plan_precision
from dmedge.compress.quantize import quantize_
from dmedge.data.evalset import EvalSet
from dmedge.errors import VerifyError, require
from dmedge.evidence.accuracy import evaluate
from dmedge.logs import progress
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import Range, Scheme
from dmedge.training.validation import LiveEncoder

ALGORITHM = "dmedge_plan"  # what neural-compressor calls our quantizer
MOST_TRIALS = 16


@dataclass(eq=False)
class Search:
    """What is searched, and what has been found."""

    checkpoint: Checkpoint  # float, with batch normalisation folded
    always: tuple[str, ...]  # modules that stay float32 whatever happens
    ranges: Mapping[str, Range]
    sensitivity: Mapping[str, float]  # group -> dB, the most sensitive first
    costs: Mapping[str, Cost]
    data: EvalSet
    limits: Limits
    trials: list[Trial] = field(default_factory=list)
    baseline: dict[str, float] = field(default_factory=dict)  # recall@10 of the float model by language
    pictures: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # embeddings by image plan

    @property
    def chosen(self) -> Trial:
        """The trial that keeps the limits best, the first of several."""
        return max(self.trials, key=lambda trial: trial.score(self.limits))

    def plan(self, keep: Sequence[str]) -> dict[str, Scheme]:
        """The plan that leaves some groups in float32."""
        return plan_precision(self.checkpoint.model, (*self.always, *keep))

    def to_json(self) -> dict[str, Any]:
        """All of it, for search.json."""
        return {
            "limits": self.limits.given(),
            "baseline_recall_at_10": float(np.mean(list(self.baseline.values()))),
            "sensitivity_db": dict(self.sensitivity),
            "trials": [asdict(trial) | {"misses": trial.overshoots(self.limits)} for trial in self.trials],
            "keep": list(self.chosen.keep),
            "latency": "estimated from modules timed alone on this host",
        }

    def write(self, path: Path) -> None:
        """Write search.json."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")


def search_plan(search: Search) -> tuple[str, ...]:
    """Try plans until one keeps every limit.

    Returns:
        the modules to keep in float32.

    Raises:
        VerifyError: none does; the message has the best that was found, and what it missed.
        DmedgeError: neural-compressor is not installed.
    """
    groups = list(search.sensitivity)[: MOST_TRIALS - 1]
    variants = [tuple(groups[:count]) for count in range(len(groups) + 1)]
    with progress("search", total=len(variants)) as advance, _neural_compressor() as tuner:
        configuration = _plan_config(tuner, search)

        def score(model: DualEncoder) -> float:
            if not hasattr(model, "searched_keep"):  # the float model, which neural-compressor measures first
                search.baseline.update(_recalls(search, model, "float32"))
                return 1.0
            trial = _measure(search, model, model.searched_keep)  # type: ignore[arg-type]
            search.trials.append(trial)
            advance(1, missed_words(trial, search.limits) or "fits")
            return trial.score(search.limits)

        tuning = tuner.TuningConfig(
            config_set=[configuration(keep) for keep in variants], tolerable_loss=0.0, max_trials=len(variants)
        )
        tuner.autotune(deepcopy(search.checkpoint.model), tune_config=tuning, eval_fn=score)
    best = search.chosen
    if best.overshoots(search.limits):
        flags = " ".join(f"--keep {group}" for group in best.keep) or "no --keep"
        raise VerifyError(
            f"no plan of {len(search.trials)} keeps the budget: the best ({flags}) has "
            f"{missed_words(best, search.limits)}; expected all limits kept; allow more, or make that plan by hand"
        )
    return best.keep


def _measure(search: Search, model: DualEncoder, keep: tuple[str, ...]) -> Trial:
    plan = search.plan(keep)
    image_plan = json.dumps({name: plan[name] for name in sorted(plan) if name.startswith(("image", "head"))})
    found = _recalls(search, model, image_plan)
    before, after = (float(np.mean(list(recalls.values()))) for recalls in (search.baseline, found))
    worst, drop = worst_drop(search.baseline, found)
    state = model.state_dict().values()
    return Trial(
        keep=keep,
        recall_at_10=after,
        drop=relative_drop(before, after),
        worst_language=worst,
        drop_worst_language=drop,
        size_mb=sum(tensor.numel() * tensor.element_size() for tensor in state) / 1e6,
        latency_ratio=latency_ratio(search.costs, plan),
    )


class _SeenPictures:
    """An encoder that embeds the pictures of one image tower once."""

    def __init__(self, search: Search, model: DualEncoder, key: str) -> None:
        self.live = LiveEncoder(model.eval(), search.checkpoint.tokenizer, search.checkpoint.preprocess)
        self.known, self.key = search.pictures, key

    def images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """See `LiveEncoder`."""
        if self.key not in self.known:
            self.known[self.key] = self.live.images(images)
        return self.known[self.key]

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `LiveEncoder`."""
        return self.live.texts(texts)


def _recalls(search: Search, model: DualEncoder, image_plan: str) -> dict[str, float]:
    encoder = _SeenPictures(search, model, image_plan)
    scores = evaluate(encoder, search.data).by_language("text_to_image")
    return {tag: float(score.recall_at_10) for tag, score in scores.items()}


@contextmanager
def _neural_compressor() -> Iterator[Any]:
    """The package, with its own tables and messages held back."""
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        tuner = require("neural_compressor.torch.quantization", "compress")
    noisy = logging.getLogger("neural_compressor")
    level, noisy.level = noisy.level, logging.CRITICAL
    try:
        yield tuner
    finally:
        noisy.level = level


def _plan_config(tuner: Any, search: Search) -> Callable[[tuple[str, ...]], Any]:
    """Register our configuration and our algorithm with neural-compressor; return what makes a configuration."""
    base: Any = require("neural_compressor.common.base_config", "compress")
    registry: Any = require("neural_compressor.torch.utils.utility", "compress")

    class PlanConfig(base.BaseConfig):  # type: ignore[misc]
        """A plan, as neural-compressor wants to be given it."""

        name = ALGORITHM

        def __init__(self, keep: tuple[str, ...] = (), white_list: Any = None) -> None:
            super().__init__(white_list=white_list)
            self.keep = keep

        @classmethod
        def register_supported_configs(cls) -> list[Any]:
            return []

        @classmethod
        def get_config_set_for_tuning(cls) -> Any:
            return cls()

        @staticmethod
        def get_model_info(model: Any, example_inputs: Any = None) -> list[tuple[str, str]]:
            return [("", type(model).__name__)]

        def expand(self) -> list[Any]:
            return [self]

        def to_config_mapping(self, config_list: Any = None, model_info: Any = None) -> dict[tuple[str, str], Any]:
            return {entry: self for entry in model_info}

        def to_dict(self) -> dict[str, Any]:
            return {"keep": list(self.keep)}

        def __eq__(self, other: object) -> bool:
            return isinstance(other, PlanConfig) and self.keep == other.keep

        __hash__ = None  # type: ignore[assignment]

    base.register_config(framework_name="torch", algo_name=ALGORITHM)(PlanConfig)

    def carry_out(model: DualEncoder, mapping: Mapping[Any, Any], *rest: Any, **options: Any) -> DualEncoder:
        (config,) = mapping.values()
        quantize_(model, search.plan(config.keep), search.ranges)
        model.searched_keep = config.keep
        return model

    registry.register_algo(name=ALGORITHM)(carry_out)
    return PlanConfig
