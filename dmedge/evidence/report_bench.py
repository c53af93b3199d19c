"""Sections of the report on the further passes of a benchmark; empty where they were not asked for."""

from collections.abc import Mapping
from html import escape
from typing import Any

from dmedge.evidence.bench_charts import operator_chart, roofline_chart, sustained_chart
from dmedge.evidence.report_data import Judged
from dmedge.evidence.report_text import CASE_NAMES, definitions, interval, section, table

SIDES = {"artifact": "this bundle", "fp32": "fp32 bundle"}


def sustained(entry: Judged) -> str:
    """The curve of minutes without a pause."""
    found = entry.bench.get("sustained") if entry.bench else None
    if not found:
        return ""
    ratio, rows = found["slowdown"], found["windows"]
    fell = {True: "fell by more than a tenth", False: "held", None: "not told by the machine"}[ratio["frequency_fell"]]
    warmth = [row["temperature_c"] for row in rows if row["temperature_c"] is not None]
    figures = [
        ("last over first", f"×{ratio['value']:.3f} <small>{interval(ratio)}</small>"),
        ("frequency", fell),
        ("temperature", f"{warmth[0]:g} to {warmth[-1]:g} C" if warmth else "not told by the machine"),
        (f"energy of the {found['energy']['of']}" if found["energy"] else "energy", _energy_words(found["energy"])),
        ("program running", f"{100 * min(row['busy'] for row in rows):.0f} % of the time, at least"),
    ]
    note = (
        f"{found['minutes']:g} minutes of {CASE_NAMES[found['case']].partition(',')[0]}, the slowest program, back to "
        f"back, in {len(rows)} windows. Throttled: the median of the last window over that of the first, with its "
        f"95 % interval over turns, lies wholly above {ratio['limit']:g}; steady: wholly below. Dashed: that limit."
    )
    shade = "warn" if ratio["verdict"] == "throttled" else ""
    body = f'{sustained_chart(found)}<div class="cards"><div>{definitions(figures)}</div></div>'
    return section(f"{escape(entry.name)}: sustained, {ratio['verdict']}", body, note=note, shade=shade)


def _energy_words(energy: Mapping[str, Any] | None) -> str:
    if energy is None:
        return "not available"
    return f"{1e3 * energy['joules_per_run']:.3g} mJ a run <small>{energy['watts']:.3g} W; {energy['by']}</small>"


def roofline(entry: Judged) -> str:
    """Every program below the roofs that were measured."""
    found = entry.bench.get("roofline") if entry.bench else None
    if not found:
        return ""
    rows = [
        [f"{CASE_NAMES[name].partition(',')[0]}<small>{SIDES[side]}</small>", *_roofline_cells(row)]
        for side, programs in found["programs"].items()
        for name, row in programs.items()
    ]
    names = ["", "MACs", "parameters", "MACs per byte", "GMAC/s", "of float32 peak", "of int8 peak", "of its roof"]
    peaks = found["peaks"]
    copied = f"{peaks['bytes_per_s'] / 1e9:.3g} GB/s of a copy" if peaks["bytes_per_s"] else "no bandwidth"
    note = (
        f"Peaks are the best of several products of {peaks['size']} x {peaks['size']} in the same runtime on the same "
        f"machine, and {copied}. Solid: float32; dashed: int8. Bytes are at least the weights and what products read "
        "and write, so the true points lie further left; what stays in a cache can rise above the slope. The roof of "
        "a program weighs both peaks by its share of int8. Circles: this bundle; squares: fp32."
    )
    body = f"{roofline_chart(peaks, found['programs'])}{table(names, rows)}"
    return section(f"{escape(entry.name)}: roofline", body, note=note)


def _roofline_cells(row: Mapping[str, Any]) -> list[str]:
    def cell(key: str, factor: float, form: str) -> str:
        return "unknown" if row[key] is None else form.format(row[key] * factor)

    tokens = f"<small>{row['tokens']} tokens</small>" if row["tokens"] else ""
    return [
        cell("macs", 1e-6, "{:,.1f} M") + tokens,
        cell("parameters", 1e-6, "{:.2f} M"),
        cell("macs_per_byte", 1, "{:.3g}"),
        cell("macs_per_s", 1e-9, "{:.3g}"),
        *(cell(key, 100, "{:.1f} %") for key in ("of_float32_peak", "of_int8_peak")),
        cell("of_roof", 100, "{:.1f} %") + (f"<small>bound by {row['bound']}</small>" if row["bound"] else ""),
    ]


def operators(entry: Judged) -> str:
    """The hottest operators of every program."""
    profile = entry.bench.get("profile") if entry.bench else None  # evidence of before has no such key
    if not profile:
        return ""
    cards = "".join(
        f'<div><h3>{CASE_NAMES[name]}</h3><p class="note">{row["operators_us"]:,.0f} us in {row["n_operators"]} '
        f"operators; {row['whole_us']:,.0f} us a run under the profiler; medians of {row['runs']} runs</p>"
        f"{operator_chart(row['hottest'], name)}</div>"
        for name, row in profile["programs"].items()
    )
    note = (
        f"By {escape(str(profile['profiler']))}, in a pass of its own. A profiler slows what it watches: shares say "
        "where a run spends itself, and no figure here is a latency."
    )
    return section(f"{escape(entry.name)}: hottest operators", f'<div class="pair">{cards}</div>', note=note)
