"""The judge of a budget search: quantizes as the stage would, and measures what a plan costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dmedge.compress.budget import Budget, Kept, PlanCost, Trial, relative_drops, score
from dmedge.compress.calibration import CalibrationSet
from dmedge.compress.config import CompressConfig
from dmedge.compress.cost_table import CostTable
from dmedge.compress.int8 import Fits, Quantized, quantize_checkpoint
from dmedge.compress.ledger import weight_bytes
from dmedge.data.evalset import EvalSet
from dmedge.errors import DataError
from dmedge.evidence.accuracy import evaluate_among
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.training.validation import LiveEncoder


@dataclass(frozen=True, eq=False)
class Question:
    """What is searched for, and on what."""

    checkpoint: Checkpoint  # float
    config: CompressConfig
    budget: Budget
    calibration: CalibrationSet
    data: EvalSet
    languages: frozenset[str] = frozenset()  # that count; empty for all
    fits: Fits | None = None  # 4-bit codes, where they are the same in every plan


@dataclass
class Judge:
    """Carries plans out and measures them; keeps the trials in their order."""

    question: Question
    costs: CostTable
    on_trial: Callable[[Trial], object] = lambda trial: None
    baseline: dict[str, float] = field(default_factory=dict)  # recall of every language, of the float model
    trials: list[Trial] = field(default_factory=list)
    _carried_out: tuple[Kept, Quantized] | None = None
    _images: dict[tuple[str, ...], NDArray[np.float32]] = field(default_factory=dict)

    def carry_out(self, model: DualEncoder, keep: Kept) -> DualEncoder:
        """Quantize all but `keep`, and but what the settings keep anyway."""
        question = self.question
        config = with_kept(question.config, keep)
        checkpoint = replace(question.checkpoint, model=model)
        found = quantize_checkpoint(checkpoint, config, question.calibration, fits=question.fits)
        self._carried_out = keep, found
        return found.checkpoint.model

    def evaluate(self, model: nn.Module) -> float:
        """Score a model: the float one at first, then the one that was carried out last.

        Raises:
            DataError: the float model finds nothing.
        """
        if not self.baseline:
            self.baseline = self._recalls(self.question.checkpoint, side=())
            if not any(self.baseline.values()):
                raise DataError(
                    f"{self.question.data.name}: the float model finds no picture among its best ten; "
                    "expected a trained model, which has something to lose; train it first"
                )
            return mean(self.baseline)
        assert self._carried_out is not None
        kept, quantized = self._carried_out
        assert quantized.checkpoint.model is model
        trial = self._try(kept, quantized)
        self.trials.append(trial)
        self.on_trial(trial)
        return trial.score

    def _try(self, kept: Kept, quantized: Quantized) -> Trial:
        budget, plan = self.question.budget, quantized.plan
        recalls = self._recalls(quantized.checkpoint, side=tuple(plan[name] for name in self.costs.sides.image))
        drops = relative_drops(self.baseline, recalls)
        worst = max(drops, key=lambda tag: (drops[tag], tag))
        before, after = mean(self.baseline), mean(recalls)
        cost = PlanCost(
            size_mb=weight_bytes(quantized.checkpoint, torch.float32) / 1e6,
            recall_at_10=after,
            drop=(before - after) / before,
            worst_language=worst,
            worst_drop=drops[worst],
            latency_ratio=self.costs.latency_ratio(plan),
        )
        over = budget.overshoots(cost)
        return Trial(kept=kept, cost=cost, overshoots=over, score=score(budget, before, after, over))

    def _recalls(self, checkpoint: Checkpoint, side: tuple[str, ...]) -> dict[str, float]:
        """Recall@10, text to image, of every language that counts; pictures are embedded once for each `side`."""
        data, encoder = self.question.data, LiveEncoder(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess)
        if side not in self._images:
            self._images[side] = encoder.images(data.images)
        found = evaluate_among(self._images[side], encoder, data).by_language("text_to_image")
        languages = self.question.languages or found.keys()
        return {tag: float(one.recall_at_10) for tag, one in found.items() if tag in languages}


def with_kept(config: CompressConfig, kept: Kept) -> CompressConfig:
    """The settings of one plan."""
    return replace(config, keep=(*config.keep, *kept.float32), keep_int8=(*config.keep_int8, *kept.int8))


def mean(recalls: Mapping[str, float]) -> float:
    """Every language alike."""
    return sum(recalls.values()) / len(recalls)
