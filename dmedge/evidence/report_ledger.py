"""What compression cost and bought, step by step, as the checkpoints that it made have written it down."""

from collections.abc import Mapping
from html import escape
from typing import Any

from dmedge.evidence.report_data import Collection
from dmedge.evidence.report_text import bytes_text, figure, section, table


def ledgers(collection: Collection) -> str:
    """A table for every checkpoint that compression made in several steps, or measured."""
    found = [
        (root.name, manifest.summary["ledger"])
        for root, manifest in collection.manifests.values()
        if manifest.stage == "compress" and manifest.summary.get("ledger")
    ]
    return "".join(_ledger(name, lines) for name, lines in found if isinstance(lines, (list, tuple)))


def _ledger(name: str, lines: Any) -> str:
    start = lines[0]
    names = ["step", "parameters", "MACs", "weights", "recall@10", "worst language"]
    rows = [[escape(str(line["step"])), *_costs(line, start), *_recalls(line)] for line in lines]
    note = (
        "Multiply-accumulates of one image, one text and one fusion of both; weights as stored. Recall is text to "
        "image on validation data, which no bundle is judged by, over the languages that are kept."
    )
    return section(f"{escape(name)}: what each step cost", table(names, rows), note=note)


def _costs(line: Mapping[str, Any], start: Mapping[str, Any]) -> list[str]:
    return [
        f"{line['parameters']:,}",
        f"{line['macs'] / 1e6:,.1f} M ({line['macs'] / start['macs']:.2f}×)",
        f"{bytes_text(line['weight_bytes'])} ({line['weight_bytes'] / start['weight_bytes']:.2f}×)",
    ]


def _recalls(line: Mapping[str, Any]) -> list[str]:
    if line["recall_at_10"] is None:
        return ["–", "–"]
    return [figure(line["recall_at_10"]), f"{escape(line['worst_language'])} {figure(line['worst_recall_at_10'])}"]
