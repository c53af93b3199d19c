"""When to stop, and which evaluation was the best."""

import math
import re
from collections.abc import Mapping
from typing import Any

from dmedge.errors import ConfigError

SMALLER_IS_BETTER = re.compile(r"(?<![a-z])(loss|losses|error|errors|time)(?![a-z])")
USUAL = ("recall_at_10", "loss")  # what is best where no metric is named


class EarlyStop:
    """Says stop after `patience` evaluations without a new best of `metric`.

    A metric with "loss", "error" or "time" in its name is better when smaller, any other when
    larger. Without a metric it never stops, and finds the best by "recall_at_10", or by "loss".
    """

    def __init__(self, metric: str, patience: int) -> None:
        self.metric, self.patience = metric, patience
        self.best: float | None = None
        self.best_step = 0
        self.is_new_best = False
        self.waited = 0  # evaluations since the best one

    def update(self, row: Mapping[str, float]) -> bool:
        """Look at one evaluation, a row with "step" and the metrics; return whether to stop.

        What is no number is never a best.

        Raises:
            ConfigError: the metric is not among those reported.
        """
        name = self.metric or next((usual for usual in USUAL if usual in row), "")
        if self.metric and name not in row:
            reported = ", ".join(sorted(row.keys() - {"step"}))
            raise ConfigError(f"early_stop is {name!r}; expected a metric that is reported: {reported}")
        value = float(row.get(name, math.nan))
        sign = -1 if SMALLER_IS_BETTER.search(name) else 1
        self.is_new_best = math.isfinite(value) and (self.best is None or sign * value > sign * self.best)
        if self.is_new_best:
            self.best, self.best_step, self.waited = value, int(row["step"]), 0
        else:
            self.waited += 1
        return bool(self.metric) and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """The best so far and how long ago it was, in plain values."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, table: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.best, self.best_step, self.waited = table["best"], table["best_step"], table["waited"]
        self.is_new_best = False
