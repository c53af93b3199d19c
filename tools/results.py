"""Write docs/results.md from what `dmedge eval` and `dmedge verify` print as JSON.

dmedge eval emoji --json > eval.json
dmedge verify runs/android --budget worst_class_accuracy_drop=0.05 --json > android.json
dmedge verify runs/linux-x86_64 --budget worst_class_accuracy_drop=0.05 --json > linux.json
dmedge verify runs/android --robustness --max-per-language 20 --json > robustness.json
python tools/results.py eval.json android.json linux.json robustness.json > docs/results.md
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmedge.data.languages import count_languages, language_name, script_of
from dmedge.evidence.head_rows import head_rows, signed

TAGS = {
    "known": "text that was trained on",
    "held_out": "text of cells that were held out",
    "novel": "of these, strings that occur nowhere in training",
    "unseen_emoji": "emoji that were never trained on, among all",
}
COMMANDS = """dmedge compress emoji --int8
dmedge export runs/emoji-int8 --target android --out runs/android
dmedge verify runs/android --robustness --max-per-language 20"""
KEYS = ("recall_at_1", "recall_at_5", "recall_at_10")


def row(name: str, figures: dict[str, Any]) -> str:
    """One line of a table: name, n, gallery and the recalls."""
    recalls = " | ".join(f"{figures[key]:.3f}" for key in KEYS)
    return f"| {name} | {figures['n']:,} | {figures['gallery']:,.0f} | {recalls} | {figures['chance_at_1']:.4f} |"


def heads(verdicts: Sequence[dict[str, Any]]) -> None:
    """Print what the heads of the fusion lose, over all and in the language that loses most."""
    head = verdicts[0]["heads"]["match"]
    each = min(row["n"] for row in head["languages"].values()) // 2
    print(
        "\n## Heads\n\nInt8 against float32 in torch, on the same pairs: of each locale texts as many as it takes for a"
    )
    print(
        f"limit of 0.05 in every one of them ({each}), each with its own picture and with a strange one. Changes with"
    )
    print("95 % intervals, paired; those of locales hold for all of them together.\n")
    print("| runtime | head | figure | n | float32 | int8 | change |\n|---|---|---|---|---|---|---|")
    for verdict in verdicts:
        for found in head_rows(verdict["heads"]):
            figures = f"{found.n:,} | {found.baseline:.4f} | {found.artifact:.4f} | {signed(found.change)}"
            print(f"| {verdict['runtime']['runtime']} | {found.head} | {found.figure} | {figures} |")


def robustness(verdict: dict[str, Any]) -> None:
    """Print what perturbations take from a bundle and from its baseline."""
    found = verdict["robustness"]
    size = f"{found['n_texts']:,} texts in {found['languages']} and {found['gallery']:,} pictures"
    runtime = verdict["runtime"]["runtime"]
    print(f"\n## Robustness\n\nInt8 in {runtime} against float32 in torch, both on the same")
    print(f"{size}, recall@10. Every text, or its picture, is changed at")
    print("[five strengths](evidence.md#robustness); `drop` is what int8 loses beyond the loss of float32, mean over")
    print("strengths, in points, with a 95 % interval that holds for all rows together. Measured by\n")
    print(f"```\n{COMMANDS}\n```\n")
    print(
        "| of | perturbation | changed at 1, at 5 | float32, clean and at 1 to 5 | int8, clean and at 1 to 5 | drop |"
    )
    print("|---|---|---|---|---|---|")
    for name, curve in found["perturbations"].items():
        theirs, mine = (", ".join(f"{value:.3f}" for value in curve[side]) for side in ("baseline", "artifact"))
        share = f"{100 * curve['changed'][1]:.0f} %, {100 * curve['changed'][-1]:.0f} %"
        print(f"| {curve['of']} | {name.replace('_', ' ')} | {share} | {theirs} | {mine} | {points(curve['drop'])} |")
    worse = [name for name, curve in found["perturbations"].items() if curve["drop"]["low"] > 0]
    told = (
        f"int8 suffers more under {', '.join(worse)}"
        if worse
        else "int8 suffers more under none of them, as far as so many texts can tell"
    )
    print(f"\nOver all perturbations {points(found['drop'])} points: {told}.")


def points(interval: dict[str, float]) -> str:
    """A difference of recall in hundredths, and its interval."""
    value, low, high = (f"{100 * interval[end]:+.2f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def main(evaluation: Path, *judged: Path) -> None:
    """Print the page."""
    found = json.loads(evaluation.read_text("utf-8"))
    reports = [json.loads(path.read_text("utf-8")) for path in judged]
    verdicts = [report for report in reports if report["robustness"] is None]
    print("# Results of the shipped checkpoint\n")
    print(f"`{found['data']}`: {found['n_images']:,} pictures in an art style that was never trained on; settings")
    print(f"were chosen on another one, fxemoji. {found['n_texts']:,} texts in {count_languages(found['languages'])};")
    print("figures are means over locales. `tools/results.py` writes this page.\n")
    for direction in ("text_to_image", "image_to_text"):
        print(f"## {direction.replace('_', ' ').capitalize()}\n")
        print("| | n | among | recall@1 | recall@5 | recall@10 | chance@1 |\n|---|---|---|---|---|---|---|")
        for tag, meaning in TAGS.items():
            print(row(meaning, found["tags"][tag][direction]))
        print(row("all", found["macro"][direction]) + "\n")
    print("## Languages\n\nText to image, all texts, recall@10; beside it what each int8 bundle has.\n")
    targets = [verdict["runtime"]["runtime"] for verdict in verdicts]
    print("| locale | language | script | n | recall@1 | recall@10 | " + " | ".join(targets) + " |")
    print("|---|---|---|---|---|---|" + "---|" * len(targets))
    for tag, both in found["languages"].items():
        figures = both["text_to_image"]
        bundles = " | ".join(f"{verdict['languages'][tag]['recall_at_10']:.3f}" for verdict in verdicts)
        print(
            f"| {tag} | {language_name(tag)} | {script_of(tag)} | {figures['n']:,} | {figures['recall_at_1']:.3f} "
            f"| {figures['recall_at_10']:.3f} | {bundles} |"
        )
    heads(verdicts)
    for report in reports:
        if report["robustness"] is not None:
            robustness(report)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
