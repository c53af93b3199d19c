"""Figures in words."""

from collections.abc import Mapping
from typing import Any

PUBLISHED = (
    "The last column of some tables quotes what the authors of the original dual-modal system state for it. Their "
    "figures are of COCO, Flickr30k and VQA v2 and of models with hundreds of millions of parameters on other "
    "hardware. None of them was measured or reproduced here, and none can be compared with the figures beside it."
)


def headlines(summary: Mapping[str, Any]) -> list[str]:
    """The few facts that a reader wants first, in words."""
    accuracy, gain, goal = (summary[key] for key in ("accuracy", "gain_over_plain_attention", "int8_latency_goal"))
    recall, near = summary.get("recall_at_10"), summary.get("languages_near_english")
    met = [name for name, is_met in goal["reached"].items() if is_met]
    lines = [
        f"{summary['headline']}: accuracy {with_interval(accuracy)}, n = {accuracy['n']:,}.",
        f"Over plain cross-attention: {points(gain)}; 2 points or more: {gain['verdict']}.",
    ]
    if recall:
        lines.append(
            f"Text finds its picture {summary['found']}: recall@10 {with_interval(recall)}, n = {recall['n']:,}."
        )
    if near:
        lines.append(f"{near['reached']} of {near['languages']} locales reach 80 % of the recall@10 of English.")
    return [
        *lines,
        f"30 % less latency by int8, on this machine: {len(met)} of {len(goal['reached'])} programs "
        f"({', '.join(met) or 'none'}).",
    ]


def with_interval(figure: Mapping[str, Any]) -> str:
    """0.512 [0.490, 0.533]."""
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def points(figure: Mapping[str, Any]) -> str:
    """+3.1 points [+1.9, +4.2], of a difference of shares."""
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"


def verdict_on_gain(summary: Mapping[str, Any]) -> str:
    """Whether the shipped design is at least two points better than plain cross-attention, in words."""
    gain = summary["gain_over_plain_attention"]
    return f"{points(gain)}; at least {100 * gain['wanted']:.0f} points: {gain['verdict']}"
