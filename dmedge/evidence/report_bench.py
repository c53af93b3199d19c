"""Sections of the report on the further passes of a benchmark; empty where they were not asked for."""

from html import escape

from dmedge.evidence.bench_charts import operator_chart
from dmedge.evidence.report_data import Judged
from dmedge.evidence.report_text import CASE_NAMES, section


def operators(entry: Judged) -> str:
    """The hottest operators of every program."""
    profile = entry.bench.get("profile") if entry.bench else None  # evidence of before has no such key
    if not profile:
        return ""
    cards = "".join(
        f'<div><h3>{CASE_NAMES[name]}</h3><p class="note">{row["operators_us"]:.4g} us in {row["n_operators"]} '
        f"operators; {row['whole_us']:.4g} us a run under the profiler; medians of {row['runs']} runs</p>"
        f"{operator_chart(row['hottest'], name)}</div>"
        for name, row in profile["programs"].items()
    )
    note = (
        f"By {escape(str(profile['profiler']))}, in a pass of its own. A profiler slows what it watches: shares say "
        "where a run spends itself, and no figure here is a latency."
    )
    return section(f"{escape(entry.name)}: hottest operators", f'<div class="pair">{cards}</div>', note=note)
