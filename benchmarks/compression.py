"""What is kept of recall as a model gets smaller: points that were measured, as JSON, as a table and as a plot.

`python benchmarks/compression.py RUN...` reads compressed checkpoints of the shipped one, each with the bundle
`RUN-android` and its evidence `RUN-android-verify` and `RUN-android-bench`, writes them into
`results/compression.json`, where a run of the same settings is replaced, and draws everything that stands there.
Without RUN it only draws and prints again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training_speed import RESULTS

from dmedge.artifact import Artifact, load_artifact
from dmedge.environment import host_facts, tool_versions
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.costs import count_costs
from dmedge.training.curve import ACCENT, CARD, GRID, HUES, INK, MUTED

Point = Mapping[str, Any]
AIMS = {"macs": (0.5, 0.97), "programs": (1 / 12, 0.95)}  # largest share, least recall kept
PROGRAMS = {"encode_image": "picture", "encode_text": "text", "fuse": "fusion"}
KINDS = {True: ("in ten languages", HUES[1], "s"), False: ("in all 100 locales", ACCENT, "o")}


def settings(made: Artifact) -> dict[str, Any]:
    """What was asked for, but for what is as usual."""
    config = made.manifest.config
    learn = config["learn"]
    assert isinstance(learn, Mapping)
    names = ("student", "distill", "prune", "prune_scope", "coverage", "int8")
    found = {name: config[name] for name in names if config[name] not in ("", 0.0, False, 1.0)}
    if not found.get("prune"):
        found.pop("prune_scope", None)
    if config["languages"]:
        found["languages"] = len(made.manifest.languages)
    if found.get("student") or found.get("prune"):
        found["steps"] = learn["steps"]
    return found


def point(run: Path, macs: int) -> dict[str, Any]:
    """What was measured of one run.

    Args:
        run: the compressed checkpoint.
        macs: of the model that all were made of.
    """
    made = load_artifact(run, kind="checkpoint")
    place = f"{run}-android"
    verify = json.loads(Path(f"{place}-verify", "verify.json").read_text(encoding="utf-8"))
    bench = json.loads(Path(f"{place}-bench", "bench.json").read_text(encoding="utf-8"))
    ledger = json.loads(made.file("ledger.json").read_text(encoding="utf-8"))
    kept = verify["macro"]["text_to_image"]["retention"]["recall_at_10"]
    sizes = {side: bench["size"][side]["program_bytes"] for side in ("artifact", "fp32")}
    times = {name: bench["programs"][name]["ratio"] for name in PROGRAMS}
    return {
        "settings": settings(made),
        "macs": ledger[-1]["macs"] / macs,
        "programs": sizes["artifact"] / sizes["fp32"],
        "program_bytes": sizes["artifact"],
        "kept": {key: kept[key] for key in ("value", "low", "high")},
        "texts": verify["data"]["n_texts"],
        "time": {name: {key: ratio[key] for key in ("value", "low", "high")} for name, ratio in times.items()},
        "drifted": sorted(name for name in PROGRAMS if bench["programs"][name]["drifted"]),
        "host": host_facts()["cpu"],
    }


def title(found: Point) -> str:
    """What was done, in a few words."""
    asked = found["settings"]
    parts = [asked["student"]] if "student" in asked else []
    if "prune" in asked:
        parts.append(f"prune {asked['prune']:g} by {asked['prune_scope']}")
    if "languages" in asked:
        parts.append("trim")
    if "int8" in asked:
        parts.append("int8")
    steps = f" ({asked['steps']:,} steps)" if "steps" in asked else ""
    return ", ".join(parts) + steps


def table(points: Sequence[Point]) -> str:
    """The rows of docs/compression.md."""
    head = "| what was done | MACs | programs | time of picture, text, fusion | recall@10 kept |\n|---|---|---|---|---|"
    rows = []
    for found in points:
        kept = found["kept"]
        times = ", ".join(
            f"{found['time'][name]['value']:.2f}{'*' if name in found['drifted'] else ''}" for name in PROGRAMS
        )
        rows.append(
            f"| {title(found)} | {found['macs']:.2f} | {found['programs']:.3f} | {times} "
            f"| {kept['value']:.3f} ({kept['low']:.3f} to {kept['high']:.3f}) |"
        )
    return "\n".join([head, *rows])


def draw(points: Sequence[Point], out: Path) -> None:
    """Recall that was kept, over the share of the multiply-accumulates and over that of the programs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(10.0, 4.6), layout="constrained", facecolor=CARD)
    for axis, (what, words) in zip(
        figure.subplots(1, 2, sharey=True),
        {"macs": "multiply-accumulates, of the whole model", "programs": "bytes of the programs, of float32"}.items(),
        strict=True,
    ):
        for is_trimmed, (label, colour, marker) in KINDS.items():
            chosen = [found for found in points if ("languages" in found["settings"]) == is_trimmed]
            low = [found["kept"]["value"] - found["kept"]["low"] for found in chosen]
            high = [found["kept"]["high"] - found["kept"]["value"] for found in chosen]
            across, up = [found[what] for found in chosen], [found["kept"]["value"] for found in chosen]
            axis.errorbar(across, up, yerr=[low, high], fmt=marker, color=colour, ms=6, capsize=3, label=label)
        for found in points:
            axis.annotate(
                title(found).partition(" (")[0],
                (found[what], found["kept"]["value"]),
                (7, -3),
                textcoords="offset points",
                color=MUTED,
                fontsize=6.5,
            )
        share, least = AIMS[what]
        axis.axvline(share, color=GRID, zorder=0)
        axis.plot(share, least, marker="*", ms=13, color=HUES[2], ls="", label="aimed at", zorder=0)
        axis.set_xlabel(words, color=MUTED, loc="left")
        axis.set_facecolor(CARD)
        axis.grid(axis="y", color=GRID)
        axis.tick_params(colors=MUTED, length=0)
        for side, spine in axis.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(GRID)
        if what == "programs":
            axis.set_xscale("log")
            axis.set_xticks([1 / 16, 1 / 12, 1 / 8, 1 / 4, 1 / 2, 1])
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"1/{1 / value:.0f}" if value < 1 else "1"))
            axis.xaxis.set_minor_locator(NullLocator())
        else:
            axis.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=MUTED)
    figure.suptitle("recall@10 kept, of the float32 model", x=0.01, ha="left", color=INK, fontweight="bold")
    figure.savefig(out, dpi=144)


def main() -> None:
    """Read, store, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="compressed checkpoints [default: none new]")
    options = parser.parse_args()
    path = RESULTS / "compression.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"points": []}
    if options.runs:
        macs = count_costs(load_checkpoint(load_artifact(Path("emoji"), kind="checkpoint")).model).macs
        new = [point(run, macs) for run in options.runs]
        known = [row for row in found["points"] if row["settings"] not in [one["settings"] for one in new]]
        found = {"tools": tool_versions(), "points": sorted(known + new, key=lambda row: -float(row["programs"]))}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found["points"]))
    draw(found["points"], RESULTS / "compression.png")


if __name__ == "__main__":
    main()
