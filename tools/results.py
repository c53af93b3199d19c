"""Write docs/results.md from what `dmedge eval` and `dmedge verify` print as JSON.

dmedge eval emoji --json > eval.json
dmedge verify runs/android --json > android.json
dmedge verify runs/linux-x86_64 --json > linux.json
python tools/results.py eval.json android.json linux.json > docs/results.md
"""

import json
import sys
from pathlib import Path
from typing import Any

from dmedge.data.languages import count_languages, language_name, script_of

TAGS = {
    "known": "text that was trained on",
    "held_out": "text of cells that were held out",
    "novel": "of these, strings that occur nowhere in training",
    "unseen_emoji": "emoji that were never trained on, among all",
}
KEYS = ("recall_at_1", "recall_at_5", "recall_at_10")


def row(name: str, figures: dict[str, Any]) -> str:
    """One line of a table: name, n, gallery and the recalls."""
    recalls = " | ".join(f"{figures[key]:.3f}" for key in KEYS)
    return f"| {name} | {figures['n']:,} | {figures['gallery']:,.0f} | {recalls} | {figures['chance_at_1']:.4f} |"


def main(evaluation: Path, *judged: Path) -> None:
    """Print the page."""
    found = json.loads(evaluation.read_text("utf-8"))
    verdicts = [json.loads(path.read_text("utf-8")) for path in judged]
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


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
