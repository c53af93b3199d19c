"""The sections around the task: other designs, cost, attention, robustness, and what was wished for."""

from collections.abc import Mapping
from typing import Any

from dmedge.data.languages import language_name
from dmedge.evidence.report_text import milliseconds
from dmedge.study.attention import attention_pictures, attention_tables
from dmedge.study.cells import folders
from dmedge.study.charts import line_chart
from dmedge.study.context import Study
from dmedge.study.cost import RUNTIME, TARGET
from dmedge.study.findings import Findings, summarise
from dmedge.study.page import Picture, Section, Table
from dmedge.study.published import with_published
from dmedge.study.turns import OWN, ROUNDS, TOKENS
from dmedge.study.words import verdict_on_gain, with_interval

WAYS = {"first_window": "first window", "all_windows": "all windows"}  # of reading a long text


def comparison(study: Study, found: Findings) -> Section:
    """Families trained from scratch."""
    config, first = study.config, next(iter(found.comparison.values())).result
    is_searched = "recall_at_1" in first
    rows = []
    for name, run in found.comparison.items():
        result, timed = run.result, found.turns.result[name]
        rows.append(
            [
                name,
                with_interval(result["accuracy_interval"]),
                f"{result['macro_f1']:.3f}",
                *([f"{result['recall_at_1']:.3f}"] if is_searched else []),
                f"{result['parameters'] / 1e6:.2f} M ({_without_tokens(result) / 1e6:.2f} M)",
                f"{result['flops'] / 1e6:.1f} M",
                f"{timed['pair_ms']:.2f} ms",
                f"{timed['ratio']['value']:.2f} [{timed['ratio']['low']:.2f}, {timed['ratio']['high']:.2f}]",
                f"{result['train_seconds']:.0f} s",
                _megabytes(result["peak_memory_mb"]),
            ]
        )
    columns = (
        *("model", "accuracy", "macro F1", *([f"recall@1 among {config.candidates}"] if is_searched else [])),
        *("parameters (without tokens)", "FLOPs of a pair", "latency of a pair", "of dmedge's", "training"),
        "peak memory",
    )
    searched = f"; recall over {first['searches']} searches" if is_searched else ""
    note = (
        f"Accuracy on n = {first['accuracy_interval']['n']:,} pairs{searched}. "
        "Memory is that of the whole process at its most, with the data of the study in it. "
        f"Latency: batch 1, {TOKENS} tokens, one thread, PyTorch on this machine, {ROUNDS} rounds in turns. To "
        "rank a gallery, two encoders run once for each picture beforehand and once for the query; a two-"
        "stream model runs once for each pair."
    )
    return Section(
        "Beside other designs",
        f"Every model from scratch: {config.scratch_steps} steps of {config.scratch_batch} pairs, the same pairs in "
        "the same order, the same learning rate, one seed. LXMERT and CLIP are the classes of transformers in a small "
        "configuration; ViLBERT is our own small one after the paper. LXMERT and ViLBERT see a grid of patches of a "
        f"small convolutional network in place of detected objects.{_OWN_WAY if OWN in found.comparison else ''}",
        tables=(with_published(Table("Accuracy and cost", columns, rows, note), "comparison"),),
        cells=folders([*found.comparison.values(), found.turns]),
    )


_OWN_WAY = (
    " The last row starts from the factorised token embeddings and learns a concept for every emoji, as dmedge does by "
    "default: it is told which pairs show the same emoji, which the others only learn from which pairs match."
)


def cost(study: Study, found: Findings) -> Section:
    """Before and after int8."""
    result = found.cost.result
    rows = []
    for program, row in result["programs"].items():
        ratio, goal = row["ratio"], result["goal"]["limit"]
        fp32, int8 = (row[side].get("p50_ms") for side in ("fp32", "artifact"))  # none of too few samples
        rows.append(
            [
                program.replace("_", " "),
                milliseconds(fp32),
                milliseconds(int8),
                f"{1000 / int8:,.0f} / s" if int8 else "",
                f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
                "reached" if ratio["high"] <= goal else "missed" if ratio["low"] > goal else "not enough data",
            ]
        )
    size, recall, costs = result["size"], result.get("recall_at_10"), result["costs"]
    sizes = [
        ["programs", *(f"{size[side]['program_bytes'] / 1e6:.2f} MB" for side in ("fp32", "artifact"))],
        ["download", *(f"{size[side]['download_bytes'] / 1e6:.2f} MB" for side in ("fp32", "artifact"))],
        *(
            [[f"recall@10, n = {result['texts']:,}", f"{recall['fp32']:.3f}", f"{recall['int8']:.3f}"]]
            if recall
            else []
        ),
        ["parameters", f"{costs['parameters']:,}", ""],
        ["multiply-accumulates of all programs", f"{costs['macs'] / 1e6:.1f} M", ""],
    ]
    columns = ("program", "fp32 p50", "int8 p50", "int8 throughput", "ratio", "30 % less")
    return Section(
        "Cost, before and after compression",
        f"int8 by `dmedge compress --int8`, both exported for {TARGET} ({RUNTIME}) and timed in turns on this machine, "
        "one thread. It is a server's processor: no phone was measured.",
        tables=(
            with_published(Table("Latency", columns, rows), "latency"),
            with_published(Table("Size and quality" if recall else "Size", ("", "fp32", "int8"), sizes), "size"),
        ),
        cells=folders([found.cost]),
    )


def attention(study: Study, found: Findings) -> Section:
    """Where the text looks, and whether it matters."""
    if found.attention is None:
        return Section("Attention", "The checkpoint has no cross-attention, so there is nothing to look at.")
    return Section(
        "Attention",
        "Where the tokens of a text look in the picture, whether removing those regions changes the answer more than "
        "removing others, and how the fusion weighs its two sides as either says less. Attention weights are no "
        "explanation by themselves (Jain and Wallace 2019, arXiv:1902.10186), hence the deletion and insertion curves.",
        tables=attention_tables(found.attention.result),
        pictures=attention_pictures(found.attention),
        cells=folders([found.attention]),
    )


def robustness(study: Study, found: Findings) -> Section:
    """Curves of every perturbation, and the worst of each."""
    rows, pictures = [], []
    for kind, run in found.robustness.items():
        curves = run.result["curves"]
        for name in dict.fromkeys((study.design, "cross-attention", "plain-attention", "vision-only", "text-only")):
            clean, worst = curves[name][0], curves[name][-1]
            rows.append(
                [
                    kind,
                    name,
                    f"{clean['value']:.3f}",
                    with_interval(worst),
                    f"{100 * (worst['value'] - clean['value']):+.1f}",
                ]
            )
        lines = {name: [(row["strength"], row["value"]) for row in curve] for name, curve in curves.items()}
        pictures.append(Picture(line_chart(lines, "strength", "accuracy"), kind))
    n = next(iter(found.robustness.values())).result["curves"][study.design][0]["n"]
    return Section(
        "Robustness",
        f"Pictures and texts of the test pairs perturbed at five strengths{study.source.words.on_top}; 0 is the pairs "
        "as they are. Every head is judged on the same perturbed pairs.",
        tables=(
            Table(
                "At the greatest strength",
                ("perturbation", "head", "clean", "perturbed", "points"),
                rows,
                f"n = {n:,}.",
            ),
        ),
        pictures=tuple(pictures),
        cells=folders(list(found.robustness.values())),
    )


def wishes(study: Study, found: Findings) -> Section:
    """Long text, languages, better attention, less latency."""
    judged = Table("Wishes", ("wish", "found"), _judged(study, found))
    if found.long_text is None:
        return Section("What was wished for", study.source.words.no_more, tables=(judged,))
    long = found.long_text.result
    table, picture = _long_text(long)
    return Section(
        "What was wished for",
        "Long descriptions are synthetic: names and keywords of the emoji that is meant, alone or among keywords of "
        "any others, joined by each locale's own list pattern, "
        f"about {long['tokens_of_a_text']:.0f} tokens. The model reads "
        f"{long['context_length']} at once; of a longer text either the first window is embedded, or all windows and "
        "the mean is taken.",
        tables=(judged, table),
        pictures=(picture,),
        cells=folders([found.long_text]),
    )


def _judged(study: Study, found: Findings) -> list[list[str]]:
    goal = found.cost.result["goal"]
    rows = [
        ["2 points more accuracy than plain cross-attention", verdict_on_gain(summarise(study, found))],
        [
            "30 % less latency by int8, every program",
            f"worst ratio {goal['worst_ratio']:.2f}, limit {goal['limit']:.2f}",
        ],
    ]
    near = None if found.retrieval is None else found.retrieval.result.get("near_english")
    if near is None:
        return rows
    below = ", ".join(f"{language_name(tag)} ({tag})" for tag in near["below"]) or "none"
    return [
        *rows,
        [
            "50 languages or more",
            f"{near['languages']} locales, {near['reached']} at 80 % of English ({near['english']:.3f}) or more",
        ],
        ["Below 80 % of English", below],
    ]


def _long_text(long: Mapping[str, Any]) -> tuple[Table, Picture]:
    rows = [
        [f"1 of {row['own_every']}", str(row["tokens"]), *(with_interval(row[way]) for way in WAYS)]
        for row in long["rows"]
    ]
    tokens = list(dict.fromkeys(row["tokens"] for row in long["rows"]))
    lines = {
        f"1 of {every}, {words}": [
            (float(tokens.index(row["tokens"])), row[way]["value"]) for row in long["rows"] if row["own_every"] == every
        ]
        for every in dict.fromkeys(row["own_every"] for row in long["rows"])
        for way, words in WAYS.items()
    }
    chart = line_chart(lines, "tokens read", "recall@10", x_ticks=[str(count) for count in tokens])
    first = long["rows"][0]["first_window"]
    table = Table(
        "Recall@10 as more is read",
        ("own words", "tokens", *WAYS.values()),
        rows,
        f"n = {first['n']:,} descriptions of {first['clusters']:,} emoji, among {long['gallery']:,} pictures.",
    )
    return table, Picture(chart, "Recall@10 over the tokens that are read.")


def _megabytes(number: float | None) -> str:
    return "not available" if number is None else f"{number:,.0f} MB"


def _without_tokens(result: Mapping[str, Any]) -> int:
    return int(result["parameters"]) - int(result["token_parameters"])
