"""The ledger: what each step of compression cost in accuracy and bought in size and work."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from dmedge.data.evalset import EvalSet
from dmedge.evidence.accuracy import evaluate
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.costs import count_costs
from dmedge.training.validation import LiveEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """A checkpoint after one step; recall is of text to image, on data that no bundle is verified on.

    `macs` are those of one image, one text and one fusion of both; `weight_bytes` those of the weights on disk.
    """

    step: str
    parameters: int
    macs: int
    weight_bytes: int
    recall_at_10: float | None = None
    worst_language: str | None = None
    worst_recall_at_10: float | None = None
    languages: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        """All but the languages, rounded."""
        table = asdict(self)
        del table["languages"]
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in table.items()}


def ledger_line(
    step: str, checkpoint: Checkpoint, data: EvalSet | None, languages: frozenset[str], dtype: torch.dtype
) -> LedgerLine:
    """Measure a checkpoint.

    Args:
        step: what was done last.
        checkpoint: float or quantized.
        data: to measure recall on; None measures none.
        languages: those that count for the mean and the worst; empty for all.
        dtype: of float weights on disk.
    """
    costs = count_costs(checkpoint.model)
    found: dict[str, float] = {}
    if data is not None:
        encoder = LiveEncoder(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess)
        scores = evaluate(encoder, data).by_language("text_to_image")
        found = {tag: float(score.recall_at_10) for tag, score in scores.items()}
    counted = {tag: recall for tag, recall in found.items() if not languages or tag in languages}
    worst = min(counted, key=lambda tag: (counted[tag], tag)) if counted else None
    return LedgerLine(
        step=step,
        parameters=costs.parameters,
        macs=costs.macs,
        weight_bytes=weight_bytes(checkpoint, dtype),
        recall_at_10=sum(counted.values()) / len(counted) if counted else None,
        worst_language=worst,
        worst_recall_at_10=None if worst is None else counted[worst],
        languages=found,
    )


def weight_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Bytes of all weights, floats stored as `dtype`."""
    return sum(
        tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.element_size())
        for tensor in checkpoint.model.state_dict().values()
    )


def write_ledger(path: Path, lines: list[LedgerLine]) -> None:
    """Write all lines, with every language, as JSON."""
    path.write_text(json.dumps([asdict(line) for line in lines], indent=1, sort_keys=True) + "\n", encoding="utf-8")
