"""What a study found: its cells, and the few facts that a reader wants first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dmedge.study.cells import Done
from dmedge.study.context import Study
from dmedge.study.variants import accuracy, drop

WANTED_GAIN = 0.02  # of accuracy, over plain cross-attention


@dataclass(frozen=True, eq=False)
class Findings:
    """The cells of a study; None where the data or the checkpoint has nothing to ask."""

    variants: Mapping[str, Sequence[Done]]  # by name, one for every seed
    retrieval: Done | None
    long_text: Done | None
    errors: Done
    attention: Done | None
    robustness: Mapping[str, Done]  # by perturbation
    cost: Done
    comparison: Mapping[str, Done]  # by family
    turns: Done  # latency of all families

    def all_cells(self) -> list[Done]:
        """Every cell, in the order in which they were run."""
        heads = [run for runs in self.variants.values() for run in runs]
        single = [self.retrieval, self.long_text, self.errors, self.attention]
        return [
            *heads,
            *(run for run in single if run is not None),
            *self.robustness.values(),
            self.cost,
            *self.comparison.values(),
            self.turns,
        ]


def summarise(study: Study, found: Findings) -> dict[str, object]:
    """Headline figures, each with n and interval, as plain JSON."""
    design, plain = found.variants[study.design], found.variants["plain-attention"]
    gain = drop(study, design, plain)
    words, searched = study.source.words, {} if found.retrieval is None else found.retrieval.result
    summary: dict[str, object] = {
        "headline": words.headline,
        "found": words.found,
        "accuracy": accuracy(study, design).to_json(),
        "gain_over_plain_attention": gain.to_json()
        | {
            "wanted": WANTED_GAIN,
            "verdict": judged(gain.low, gain.high, WANTED_GAIN),
        },
        "int8_latency_goal": found.cost.result["goal"],
        "cells": len(found.all_cells()),
    }
    if searched:
        summary["recall_at_10"] = searched["recall_at_10_interval"]
    if near := searched.get("near_english"):
        summary["languages_near_english"] = {key: near[key] for key in ("reached", "languages")}
    return summary


def judged(low: float, high: float, wanted: float) -> str:
    """Whether an interval says that a figure is at least `wanted`."""
    if low >= wanted:
        return "reached"
    return "missed" if high < wanted else "not enough data"
