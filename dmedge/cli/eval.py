"""dmedge eval: retrieval figures of any checkpoint or bundle."""

from typing import TYPE_CHECKING, Any

import click

from dmedge.artifact import Artifact
from dmedge.cli.common import DATA_HELP, ArtifactParam, default_artifact, json_option, print_json
from dmedge.cli.tables import text_table
from dmedge.data.languages import count_languages

if TYPE_CHECKING:
    from dmedge.data.evalset import EvalSplit

WORST = 5  # languages shown


@click.command()
@click.argument("artifact", type=ArtifactParam(), required=False)
@click.option("--data", default="emoji", show_default=True, help=DATA_HELP)
@click.option("--style", default="twemoji", show_default=True, help="Art style of the emoji.")
@click.option(
    "--split",
    type=click.Choice(["all", "known", "held_out", "novel", "unseen"]),
    default="all",
    show_default=True,
    help="Texts that were trained on, held out, held out and new as strings, or of unseen emoji.",
)
@click.option("--max-per-language", type=click.IntRange(1), metavar="N", help="At most N texts per language.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one run.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, for a bundle.")
@json_option
def evaluate(
    artifact: Artifact | None,
    data: str,
    style: str,
    split: "EvalSplit",
    max_per_language: int | None,
    threads: int,
    workers: int,
    as_json: bool,
) -> None:
    """Measure how well ARTIFACT finds images by text and text by image, in every language; or answers questions.

    ARTIFACT is a checkpoint or a bundle [default: the newest checkpoint under runs/].
    """
    from dmedge.flow.evaluate import evaluate_artifact, open_evalset

    chosen = artifact or default_artifact("checkpoint")
    evalset = open_evalset(data, style=style, split=split, max_per_language=max_per_language)
    found = evaluate_artifact(chosen, evalset, threads=threads, workers=workers)
    if as_json:
        print_json(found)
    elif evalset.answers:
        _print_answers(found)
    else:
        _print_table(found)


def _print_answers(found: dict[str, Any]) -> None:
    score = found["vqa_accuracy"]
    click.echo(f"{found['artifact']} on {found['data']}, {found['runtime']}")
    click.echo(
        f"VQA accuracy {score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f}); {found['n']:,} questions "
        f"about {found['n_images']:,} images"
    )
    if len(found["languages"]) > 1:
        rows = [[tag, f"{row['n']:,}", f"{row['vqa_accuracy']:.4f}"] for tag, row in found["languages"].items()]
        click.echo(text_table(["language", "n", "VQA accuracy"], rows))


def _print_table(found: dict[str, Any]) -> None:
    rows = {
        "text to image, all": found["macro"]["text_to_image"],
        "image to text, all": found["macro"]["image_to_text"],
    }
    rows |= {f"text to image, {tag.replace('_', ' ')}": row["text_to_image"] for tag, row in found["tags"].items()}
    languages = {tag: row["text_to_image"] for tag, row in found["languages"].items()}
    worst = sorted(languages, key=lambda tag: languages[tag]["recall_at_10"])[:WORST]
    rows |= {f"text to image, {tag}": languages[tag] for tag in worst}
    keys = ("recall_at_1", "recall_at_5", "recall_at_10", "chance_at_10", "mrr")
    click.echo(f"{found['artifact']} on {found['data']}, {found['runtime']}")
    click.echo(
        text_table(
            ["", "n", "among", "recall@1", "recall@5", "recall@10", "chance@10", "mrr"],
            [
                [name, f"{row['n']:,}", f"{row['gallery']:,.0f}", *(f"{row[key]:.4f}" for key in keys)]
                for name, row in rows.items()
            ],
        )
    )
    last = f"the last {len(worst)} rows are the weakest of them" if len(languages) > 1 else "the last row is that one"
    click.echo(f"means over {count_languages(found['languages'])}; {last}")
    if "fusion" in found:
        _print_fusion(found["fusion"])


def _print_fusion(found: dict[str, Any]) -> None:
    area = found["match_auc"]
    if "class_accuracy" in found:
        accuracy = found["class_accuracy"]
        click.echo(
            f"group of {found['n']:,} pairs: image and text {accuracy['image_and_text']:.3f}, "
            f"image alone {accuracy['image']:.3f}, text alone {accuracy['text']:.3f}, "
            f"most common group {found['most_common_class']:.3f}"
        )
        means = {name: found[f"class_macro_{name}"]["image_and_text"] for name in ("f1", "precision", "recall")}
        click.echo(
            f"means over groups, image and text: F1 {means['f1']:.3f}, precision {means['precision']:.3f}, "
            f"recall {means['recall']:.3f}"
        )
    click.echo(
        f"match AUC: random negatives {area['random_negatives']:.3f}, "
        f"same subgroup {area['same_subgroup_negatives']:.3f}"
    )
