"""The later sections of the report: latency, fidelity, lineage and method."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dmedge.evidence.charts import Node, latency_chart, lineage_chart
from dmedge.evidence.cooling import cooling_words
from dmedge.evidence.report_data import Collection, Judged
from dmedge.evidence.report_text import (
    CASE_NAMES,
    bytes_text,
    definitions,
    figure,
    interval,
    milliseconds,
    percent,
    section,
    table,
)


def latency(entry: Judged) -> str:
    """Distributions, ratios, starts and memory of one benchmark."""
    assert entry.bench is not None
    host, runtime = entry.bench["host"]["before"], entry.bench["runtime"]
    cards = "".join(f"<div>{_case(name, row, entry)}</div>" for name, row in entry.bench["programs"].items())
    programs = list(entry.bench["start"]["artifact"]["first_ms"])
    starts = table(
        [
            "",
            "load",
            *(f"first {CASE_NAMES[name].split(',')[0]}" for name in programs),
            "memory at most",
            "before loading",
        ],
        [_start_row(side, start, programs) for side, start in entry.bench["start"].items()],
    )
    note = (
        f"{escape(str(host['cpu']))}, {runtime['threads']} thread(s), {escape(runtime['runtime'])} "
        f"{escape(runtime['version'])}, load average {figure(host['load_average'])} before. "
        "Batch 1; both sides loaded at once, taking turns A B B A; the ratio is the median over rounds, with a "
        "95 % interval over rounds that reaches to every repeat in new processes. "
        f"Grey: fp32 bundle for the same target.{_cooling(entry.bench)}"
    )
    more = _more_threads(entry.bench)
    body = f'<p class="host">{escape(entry.bench["label"])}</p><div class="pair">{cards}</div>{more}{starts}'
    return section(f"{escape(entry.name)}: latency", body, note=note)


def fidelity(entry: Judged) -> str:
    """Parity, coverage and agreement with the baseline."""
    assert entry.verify is not None
    parity, coverage = entry.verify["parity"], entry.verify["coverage"]
    parts = {
        "Outputs against torch": [
            (f"{name}, {row['n']} cases", f"{figure(row['max_error'])} (limit {row['tolerance']:g})")
            for name, row in parity["programs"].items()
        ]
        + [
            ("golden pictures", f"{parity['images'] - len(parity['images_differing'])} of {parity['images']} alike"),
            ("golden texts", f"{parity['texts'] - len(parity['texts_differing'])} of {parity['texts']} alike"),
        ],
    }
    if entry.recalls:
        parts["Answers against the baseline"] = _agreement_rows(entry.recalls["agreement"])
    parts["Quantization plan"] = _coverage_rows(coverage)
    cards = "".join(f"<div><h3>{title}</h3>{definitions(rows)}</div>" for title, rows in parts.items())
    return section(f"{escape(entry.name)}: does it compute the same?", f'<div class="cards">{cards}</div>')


def lineage(collection: Collection) -> str:
    """Who was made from whom."""
    nodes = []
    for digest, (root, manifest) in collection.manifests.items():
        caption = f"{manifest.kind} · {manifest.stage} · {digest[:8]}"
        parents = [
            parent for role, parent in manifest.parents.items() if manifest.kind != "evidence" or role == "artifact"
        ]
        nodes.append(Node(digest, root.name, caption, manifest.kind, tuple(parents)))
    note = "Every artifact names its parents by digest, and is checked by its own."
    return section("Lineage", f'<div class="scroll">{lineage_chart(nodes)}</div>', note=note)


def method(collection: Collection) -> str:
    """How the figures came about."""
    digests = "".join(
        f"<dt>{escape(entry.name)}</dt><dd><code>{entry.digest}</code></dd>" for entry in collection.judged
    )
    text = (
        "<p>A text finds an image if the image it names is among the ten nearest; what scores as high counts as "
        "nearer, so an encoder that maps everything to one point finds nothing. Every language counts alike in a mean. "
        "Intervals resample emoji, not queries, because all languages ask for the same pictures, and compare both "
        "encoders on the same draw; those of languages are widened until all of them hold together with 95 %. A budget "
        "passes when its whole interval keeps the limit, fails when all of it breaks it, and else says that the data "
        "is not enough. Known text was trained on, with pictures in other styles; new text occurs nowhere in "
        "training.</p>"
    )
    return section("How to read this", f"{text}<details><summary>Digests</summary><dl>{digests}</dl></details>")


def _case(name: str, row: Mapping[str, Any], entry: Judged) -> str:
    ratio, mine, theirs = row["ratio"], row["artifact"], row["fp32"]
    notes = [note for note, is_so in (("drifted", row["drifted"]), ("never stable", not row["warmed_up"])) if is_so]
    figures = [
        ("p50", f"{milliseconds(mine.get('p50_ms'))} <small>fp32 {milliseconds(theirs.get('p50_ms'))}</small>"),
        ("p90", f"{milliseconds(mine.get('p90_ms'))} <small>fp32 {milliseconds(theirs.get('p90_ms'))}</small>"),
        ("samples", f"{mine['n']:,} each"),
    ]
    if len(ratio.get("repeats", [])) > 1:
        figures.append(("each repeat", ", ".join(f"×{value:.2f}" for value in ratio["repeats"])))
    if "end_to_end" in row:
        figures.append(("with decoding or tokenising, p50", milliseconds(row["end_to_end"]["artifact"].get("p50_ms"))))
    samples = [np.asarray(entry.samples[f"{name}_{side}_ns"], np.float64) / 1e6 for side in ("artifact", "fp32")]
    head = f"×{ratio['value']:.2f} <small>of fp32, {interval(ratio)}{', ' + ', '.join(notes) if notes else ''}</small>"
    return f'<h3>{CASE_NAMES[name]}</h3><p class="big">{head}</p>{latency_chart(*samples)}{definitions(figures)}'


def _cooling(bench: Mapping[str, Any]) -> str:
    cooling = bench.get("cooling")  # evidence of before has no such key, as for the threads
    return f" Of the device: {escape(cooling_words(cooling))}." if cooling else ""


def _more_threads(bench: Mapping[str, Any]) -> str:
    """Programs with other numbers of threads; empty where none were asked for."""
    rows = [
        [
            f"{CASE_NAMES[name]}<small>{threads} threads</small>",
            milliseconds(row["artifact"].get("p50_ms")),
            milliseconds(row["fp32"].get("p50_ms")),
            f"×{row['ratio']['value']:.2f} <small>{interval(row['ratio'])}</small>",
        ]
        for threads, programs in bench.get("more_threads", {}).items()
        for name, row in programs.items()
    ]
    return table(["", "p50", "fp32 p50", "of fp32"], rows) if rows else ""


def _start_row(side: str, start: Mapping[str, Any], programs: Sequence[str]) -> list[str]:
    return [
        {"artifact": "this bundle", "fp32": "fp32 bundle"}[side],
        milliseconds(start["load_ms"]),
        *(milliseconds(start["first_ms"][name]) for name in programs),
        bytes_text(start["peak_rss_bytes"]),
        bytes_text(start["base_rss_bytes"]),
    ]


def _agreement_rows(alike: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("same best image", percent(alike["same_first"])),
        ("best ten in common", percent(alike["overlap_at_10"])),
        *_rank_overlap_rows(alike),
        ("recall@10, own gallery", figure(alike["recall_at_10"])),
        ("recall@10, fp32 gallery", figure(alike["recall_at_10_baseline_gallery"])),
        ("recall@10, fp32 query", figure(alike["recall_at_10_baseline_query"])),
        ("texts", f"{alike['n']:,}"),
    ]


def _rank_overlap_rows(alike: Mapping[str, Any]) -> list[tuple[str, str]]:
    """None in evidence that was written before it was measured."""
    if "rank_biased_overlap" not in alike:
        return []
    residual = f"<small>± {alike['rank_biased_residual']:.3f}</small>" if alike["rank_biased_residual"] else ""
    return [("rank-biased overlap, p 0.9", f"{figure(alike['rank_biased_overlap'])} {residual}".strip())]


def _coverage_rows(coverage: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if coverage is None:
        return [("checkpoint", "not found, so not checked")]
    return [
        ("modules found as integers", f"{coverage['modules_carried_out']} of {coverage['modules_planned']}"),
        ("parameters in int8", percent(coverage["parameter_share_int8"])),
        ("multiply-accumulates in int8", percent(coverage["mac_share_int8"])),
    ]
