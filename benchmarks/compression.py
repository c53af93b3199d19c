"""What is kept of recall as the shipped checkpoint gets smaller, before and after it has learnt again.

`python benchmarks/compression.py --again` measures pruned models and students of several sizes as they begin, without
a step of training. `python benchmarks/compression.py RUN...` adds checkpoints that `dmedge compress` made of the
shipped one, in all languages, by their ledgers, and draws all that is stored; without RUN it only draws. Recall is
recall@10 of text to image on the validation style, of float models.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from training_speed import RESULTS

from dmedge.artifact import Artifact, load_artifact
from dmedge.compress.config import CompressConfig
from dmedge.compress.corpus import validation_set
from dmedge.compress.importance import measured_importance
from dmedge.compress.ledger import LedgerLine, ledger_line
from dmedge.compress.prune import prune
from dmedge.compress.student import STUDENTS, make_student
from dmedge.environment import host_facts, tool_versions
from dmedge.lineage import trace_lineage
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.training.curve import ACCENT, CARD, GRID, HUES, INK, MUTED

RATIOS = (0.1, 0.2, 0.3, 0.45, 0.6)
AIM = (0.5, 0.97)  # share of the multiply-accumulates, and of recall
KINDS = {  # of points -> colour and mark
    "pruned": (HUES[0], "o"),
    "student": (HUES[3], "s"),
    "pruned, recovered": (ACCENT, "D"),
    "student, taught": (HUES[1], "^"),
}


def beginnings(whole: Checkpoint, texts: int) -> Iterator[tuple[str, str, LedgerLine]]:
    """Kind, name and figures of what is made of `whole` before it learns; the first is `whole` itself.

    Args:
        texts: of every language that recall is measured on.
    """
    config = CompressConfig(prune=RATIOS[0])
    data = validation_set(config.data, config.seed, texts)

    def measured(name: str, checkpoint: Checkpoint) -> LedgerLine:
        return ledger_line(name, checkpoint, data, frozenset(), torch.float32)

    yield "", "start", measured("start", whole)
    importance = measured_importance(whole, config)
    for ratio in RATIOS:
        name = f"{ratio:g}"
        yield "pruned", name, measured(name, prune(whole, importance, ratio, config.prune_scope))
    for size in STUDENTS:
        yield "student", size, measured(size, make_student(whole, size))


def point(kind: str, name: str, steps: int, line: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    """One mark of the plot; shares are of the line `start`."""
    shares = {key: line[key] / start[key] for key in ("macs", "parameters")}
    return {"kind": kind, "name": name, "steps": steps, **shares, "recall": line["recall_at_10"]} | {
        "kept": line["recall_at_10"] / start["recall_at_10"]
    }


def learnt(run: Artifact, start: Mapping[str, Any]) -> dict[str, Any]:
    """What a compressed checkpoint was like when it had learnt for the last time.

    One that was made of another counts the steps of both.
    """
    ancestors = [one.manifest for one in trace_lineage(run) if one.role == "parent" and one.manifest is not None]
    configs = [made.config for made in (run.manifest, *ancestors) if made.stage == "compress"]
    chosen = {key: next((config[key] for config in configs if config[key]), "") for key in ("student", "prune")}
    lines = json.loads(run.file("ledger.json").read_text(encoding="utf-8"))
    last = [line for line in lines if line["step"] == "recover" or line["step"].startswith("distil")][-1]
    name = " ".join(str(value) for value in chosen.values() if value)
    steps = sum(int(config["learn"]["steps"]) for config in configs)  # type: ignore[index]
    return point("student, taught" if chosen["student"] else "pruned, recovered", name, steps, last, start)


def table(points: Sequence[Mapping[str, Any]]) -> str:
    """The rows of docs/compression.md."""
    rows = ["| | steps | MACs | parameters | recall@10 | kept |", "|---|---|---|---|---|---|"]
    for one in points:
        what = f"{one['kind']}: {one['name']}"
        rows.append(
            f"| {what} | {one['steps']:,} | {one['macs']:.2f} | {one['parameters']:.2f} | {one['recall']:.3f} "
            f"| {one['kept']:.3f} |"
        )
    return "\n".join(rows)


def draw(points: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw the recall that was kept over the share of the multiply-accumulates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), layout="constrained", facecolor=CARD)
    axis = figure.subplots()
    for kind, (colour, marker) in KINDS.items():
        mine = sorted((one for one in points if one["kind"] == kind), key=lambda one: float(one["macs"]))
        if mine:
            across, up = [one["macs"] for one in mine], [one["kept"] for one in mine]
            axis.plot(across, up, color=colour, marker=marker, ms=6, lw=1, label=kind)
        longest = {one["name"]: one for one in sorted(mine, key=lambda one: int(one["steps"]))}
        for one in longest.values():  # others of its name lie below it, too near for words of their own
            words = f"{one['name']}, {one['steps']:,} steps" if one["steps"] else one["name"]
            axis.annotate(
                words, (one["macs"], one["kept"]), (6, -10), textcoords="offset points", color=MUTED, fontsize=7
            )
    axis.plot(*AIM, color=HUES[2], marker="*", ms=15, mfc="none", ls="", label="aimed at")
    axis.set_facecolor(CARD)
    axis.grid(color=GRID)
    axis.tick_params(colors=MUTED, length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axis.set_xlim(0, 1.05)
    axis.set_ylim(-0.03, 1.05)
    axis.set_xlabel("multiply-accumulates, of those of the shipped model", color=MUTED, loc="left")
    axis.set_title("recall@10 kept, validation style", loc="left", color=INK, fontweight="bold")
    axis.legend(loc="lower right", frameon=False, labelcolor=MUTED)
    figure.savefig(out, dpi=144)


def measure(texts: int) -> dict[str, Any]:
    """Figures of all beginnings."""
    found = list(beginnings(load_checkpoint(load_artifact(Path("emoji"), kind="checkpoint")), texts))
    lines = [(kind, name, {key: getattr(line, key) for key in FIGURES}) for kind, name, line in found]
    start = lines[0][2]
    return {
        "host": host_facts(),
        "tools": tool_versions(),
        "texts_per_language": texts,
        "start": start,
        "points": [point(kind, name, 0, line, start) for kind, name, line in lines[1:]],
    }


FIGURES = ("macs", "parameters", "recall_at_10")


def main() -> None:
    """Measure, store, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="compressed checkpoints that have learnt")
    parser.add_argument("--texts", type=int, default=40, help="of every language [default: %(default)s]")
    parser.add_argument("--again", action="store_true", help="measure also what is stored, and forget other runs")
    options = parser.parse_args()
    path = RESULTS / "compression.json"
    found = measure(options.texts) if options.again else json.loads(path.read_text(encoding="utf-8"))
    new = [learnt(load_artifact(run, kind="checkpoint"), found["start"]) for run in options.runs]
    names = {(one["name"], one["steps"]) for one in new}
    points = [one for one in found["points"] if (one["name"], one["steps"]) not in names] + new
    path.write_text(json.dumps(found | {"points": points}, indent=1) + "\n", encoding="utf-8")
    print(table(points))
    draw(points, RESULTS / "compression.png")


if __name__ == "__main__":
    main()
