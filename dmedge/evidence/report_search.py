"""The section of the report on a budget search: which parts rounding hurts, and which plans were tried."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from dmedge.evidence.charts import sensitivity_chart
from dmedge.evidence.report_data import Collection
from dmedge.evidence.report_text import bytes_text, figure, percent, section, table

SEARCH = "search.json"  # in a checkpoint that was compressed inside a budget


def searches(collection: Collection) -> str:
    """One section for each compressed checkpoint among the artifacts that came out of a search."""
    return "".join(
        search_section(root.name, read_search(root / SEARCH))
        for root, manifest in collection.manifests.values()
        if manifest.stage == "compress" and SEARCH in manifest.files
    )


def read_search(path: Path) -> dict[str, Any]:
    """What the search wrote down."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def search_section(name: str, search: Mapping[str, Any]) -> str:
    """A bar for each group of modules, and a row for each plan."""
    chosen = search["trials"][search["chosen"]]
    charts = "".join(
        sensitivity_chart(errors, set(chosen.get(f"kept_{kept_as}", ())), scheme, kept_as)
        for scheme, kept_as in (("int4", "int8"), ("int8", "float32"))
        if (errors := {row["group"]: row["error"] for row in search["sensitivity"] if row["scheme"] == scheme})
    )
    limits = ", ".join(
        f"{key.removeprefix('max_').replace('_', ' ')} at most {limit:g}"
        for key, limit in search["budget"].items()
        if limit is not None
    )
    data, baseline = search["data"], search["baseline"]
    note = (
        f"Limits: {escape(limits)}. Bars: 1 - cosine between embeddings of calibration data before and after, image "
        "and text added, with only that group quantized; marked groups keep more bits in the chosen plan. Recall@10 of "
        f"the float model {figure(baseline['recall_at_10'])}, on {data['n_texts']:,} texts and {data['n_images']:,} "
        f"pictures of {escape(data['name'])}; drops are relative to it. Latency is an estimate: "
        f"{escape(search['latency_method'])}."
    )
    names = ["keeps more bits", "weights", "recall@10", "lost", "worst language", "lost", "latency, estimated", "fits"]
    rows = [_trial_row(trial, number == search["chosen"]) for number, trial in enumerate(search["trials"])]
    return section(f"{escape(name)}: the search for a plan", f"{charts}{table(names, rows)}", note=note)


def _trial_row(trial: Mapping[str, Any], is_chosen: bool) -> list[str]:
    groups = [*(f"{group} (int8)" for group in trial.get("kept_int8", ())), *trial["kept_float32"]]
    kept = escape(", ".join(groups) or "nothing")
    return [
        f"<b>{kept}</b>" if is_chosen else kept,
        bytes_text(1e6 * trial["size_mb"]),
        figure(trial["recall_at_10"]),
        percent(trial["drop"]),
        escape(trial["worst_language"]),
        percent(trial["worst_drop"]),
        f"×{trial['latency_ratio']:.2f}",
        "yes" if trial["fits"] else "no",
    ]
