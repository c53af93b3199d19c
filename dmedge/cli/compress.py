"""dmedge compress: a float checkpoint to a smaller one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmedge.artifact import Artifact, Manifest
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, out_option, print_json
from dmedge.cli.tables import text_table
from dmedge.config import load_config

if TYPE_CHECKING:
    from dmedge.compress.config import CompressConfig

STUDENTS = ("medium", "small", "tiny")
BUDGET_HELP = (
    "With --int8 or --int4: search for a plan that loses at most this share of the mean recall@10; what rounding hurts "
    "most keeps more bits. Exits with 3 if there is none."
)
LIMITS = ("max_drop", "max_drop_worst_language", "max_size_mb", "max_latency_ratio")
FLOAT_SCHEMES = {"float32", "float16", "bfloat16"}


@click.command()
@click.argument("run", type=ArtifactParam("checkpoint"), required=False)
@click.option("--recipe", metavar="NAME", help="Take the settings of the compress stage of a recipe, such as mobile.")
@click.option(
    "--distill",
    metavar="TEACHER",
    help="Learn from a teacher: a checkpoint, parent for RUN itself, FILE of dmedge embed, or "
    "universal-sentence-encoder.",
)
@click.option("--student", type=click.Choice(STUDENTS), help="Make RUN this small before it learns from TEACHER.")
@click.option(
    "--prune",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of the channels, hidden units and heads to take out; the rest then recovers.",
)
@click.option("--steps", type=click.IntRange(min=0), help="Steps of each time it learns [default: 800].")
@click.option("--languages", metavar="TAGS", help="Trim the vocabulary to these languages, such as en,hi,sw,zh.")
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the text of each of them that the pieces left make up [default: 1].",
)
@click.option("--int8", is_flag=True, default=None, help="Quantize weights and activations to int8.")
@click.option("--int4", is_flag=True, default=None, help="As --int8, with 4-bit weights in linear layers, by GPTQ.")
@click.option("--smooth", is_flag=True, default=None, help="With --int8: even out large channels where that helps.")
@click.option(
    "--qat", is_flag=True, default=None, help="With --int8 or --int4: train for some steps with everything rounded."
)
@click.option("--max-drop", type=click.FloatRange(0, 1, max_open=True), help=BUDGET_HELP)
@click.option(
    "--max-drop-worst-language",
    type=click.FloatRange(0, 1, max_open=True),
    help="And at most this share in the language that loses most.",
)
@click.option("--max-size-mb", type=click.FloatRange(min=0, min_open=True), help="And weights of at most so many MB.")
@click.option(
    "--max-latency-ratio",
    type=click.FloatRange(min=0, min_open=True),
    help="And at most this share of the float time, as estimated from multiply-accumulates.",
)
@click.option(
    "--search-texts",
    type=click.IntRange(min=1),
    help="Texts of each language that the search measures recall on [default: 40].",
)
@out_option
@click.option(
    "--keep", multiple=True, metavar="MODULE", help="Leave a module, and all below it, in float32; repeatable."
)
@click.option("--keep-int8", multiple=True, metavar="MODULE", help="With --int4: leave a module in int8; repeatable.")
@click.option(
    "--calibration",
    "calibration_items",
    type=click.IntRange(min=1),
    help="Pictures and texts to calibrate with [default: 256].",
)
@click.option(
    "--data", help="emoji, or a FOLDER with images/ and captions: text and pictures to go by [default: emoji]."
)
@json_option
def compress(run: Artifact | None, recipe: str | None, out: Path | None, as_json: bool, **flags: Any) -> None:
    """Make the checkpoint RUN smaller and faster [default: the newest float checkpoint under runs/].

    What is asked for is done in this order: trim the vocabulary, distil, prune, int8 or int4.
    """
    config = settings(recipe, flags)
    parent = run or default_artifact("checkpoint", accept=is_float, what="float checkpoint")
    from dmedge.compress.config import artifact_name
    from dmedge.compress.recipe import compress_artifact

    artifact = compress_artifact(parent, config, out or parent.sibling(artifact_name(asdict(config))))
    if as_json:
        print_json({"path": artifact.root, "digest": artifact.digest, **artifact.manifest.summary})
    else:
        print_result(artifact)


def settings(recipe: str | None, flags: Mapping[str, Any]) -> "CompressConfig":
    """The settings of a recipe's compress stage, if one is named, and the flags over them.

    Raises:
        UsageError: nothing is asked for.
        ConfigError: the recipe has no compress stage, or a setting does not fit.
    """
    from dmedge.compress.config import CompressConfig

    given = {key: value for key, value in flags.items() if value not in (None, ())}
    if "languages" in given:
        given["languages"] = tuple(tag.strip() for tag in given["languages"].split(",") if tag.strip())
    limits = [name for name in LIMITS if name in given]
    if limits and not recipe and not given.get("int8") and not given.get("int4"):
        flag = f"--{limits[0].replace('_', '-')}"
        raise click.UsageError(f"{flag} without --int8; expected both, or --int4, since it limits what they may cost")
    if not recipe and not given.keys() & {"distill", "prune", "languages", "int8", "int4"}:
        raise click.UsageError(
            "nothing to do; expected --int8, --int4, --languages TAGS, --prune SHARE, --distill TEACHER "
            "or --recipe NAME"
        )
    table: dict[str, Any] = {}
    if recipe:
        from dmedge.flow.recipe import load_recipe

        table = asdict(load_recipe(recipe).first("compress").config)
    if "steps" in given:
        table["learn"] = {**table.get("learn", {}), "steps": given.pop("steps")}
    return load_config(CompressConfig, table | given, where="compress")


def is_float(manifest: Manifest) -> bool:
    """Whether a checkpoint still has all its precision."""
    return set(manifest.precision.values()) <= FLOAT_SCHEMES


def print_result(artifact: Artifact) -> None:
    """The path, the sizes, what trimming left, and what rounding did on the calibration data."""
    facts: Mapping[str, Any] = artifact.manifest.summary
    click.echo(artifact.root)
    click.echo(f"  weights     {facts['weight_bytes_parent']:,} -> {facts['weight_bytes']:,} bytes")
    if any(line["recall_at_10"] is not None for line in facts["ledger"]):
        click.echo(ledger_table(facts["ledger"]))
    if "vocabulary" in facts:
        click.echo(f"  vocabulary  {facts['vocabulary_parent']:,} -> {facts['vocabulary']:,} pieces")
        for name, recalls in (("asked for", facts["recall_at_10_asked"]), ("others", facts["recall_at_10_others"])):
            if recalls:
                click.echo(f"  recall@10   {name}: {recalls[0]:.4f} -> {recalls[1]:.4f}, validation style")
        click.echo(language_table(artifact))
    if "search" in facts:
        click.echo(search_table(facts["search"]))
    if "image_sqnr_db" in facts:
        click.echo(
            f"  in int8     {facts['parameter_share_int8']:.1%} of parameters, {facts['mac_share_int8']:.1%} of MACs"
        )
        if facts.get("parameter_share_int4"):
            click.echo(f"  in int4     {facts['parameter_share_int4']:.1%} of parameters, counted above too")
        click.echo(f"  SQNR        image {facts['image_sqnr_db']} dB, text {facts['text_sqnr_db']} dB")
        click.echo(f"  calibrated  {facts['calibration_items']} items in {facts['calibration_languages']} languages")


def search_table(search: Mapping[str, Any]) -> str:
    """The plans that were tried, in their order; what keeps more bits adds up from row to row."""
    rows, before = [], {"kept_int8": 0, "kept_float32": 0}
    for number, trial in enumerate(search["trials"], 1):
        added = [
            f"{group}{' in int8' if key == 'kept_int8' else ''}"
            for key, count in before.items()
            for group in trial.get(key, ())[count:]
        ]
        before = {key: len(trial.get(key, ())) for key in before}
        rows.append(
            [
                f"  {number}",
                ("+ " if number > 1 else "") + (", ".join(added) or "nothing"),
                f"{trial['size_mb']:.2f}",
                f"{trial['recall_at_10']:.4f} ({100 * trial['drop']:+.2f} %)",
                f"{trial['worst_language']} ({100 * trial['worst_drop']:+.2f} %)",
                f"{trial['latency_ratio']:.2f}",
                "yes" if trial["fits"] else "no",
            ]
        )
    is_short = any(trial.get("kept_int8") for trial in search["trials"])
    names = [
        "  plan",
        "more bits" if is_short else "float32",
        "MB",
        "recall@10 (lost)",
        "worst language (lost)",
        "latency",
        "fits",
    ]
    data, baseline = search["data"], search["baseline"]
    return (
        f"{text_table(names, rows, left=2)}\n  float: recall@10 {baseline['recall_at_10']:.4f}, on {data['n_texts']:,} "
        f"texts and {data['n_images']:,} pictures of {data['name']}; latency is an estimate, of the float time"
    )


def ledger_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """What each step left, and what it cost on validation data."""
    rows = [
        [
            f"  {line['step']}",
            f"{line['parameters']:,}",
            f"{line['macs'] / 1e6:.1f} M",
            f"{line['weight_bytes'] / 1e6:.2f} MB",
            f"{line['recall_at_10']:.4f}",
            f"{line['worst_language']} {line['worst_recall_at_10']:.3f}",
        ]
        for line in lines
    ]
    return text_table(["  step", "parameters", "MACs", "weights", "recall@10", "worst language"], rows)


def language_table(artifact: Artifact) -> str:
    """What trimming did to each language asked for; those not asked for are in the file it names."""
    table = json.loads(artifact.file("vocabulary.json").read_text(encoding="utf-8"))
    rows = []
    for tag, loss in table.items():
        if loss["is_asked"]:
            recalls = [loss[f"recall_at_10_{when}"] for when in ("before", "after")]
            rows.append(
                [
                    f"  {tag}",
                    f"{loss['coverage']:.4f}",
                    f"{loss['pieces_per_word_before']:.2f} -> {loss['pieces_per_word_after']:.2f}",
                    " -> ".join("unknown" if recall is None else f"{recall:.3f}" for recall in recalls),
                ]
            )
    names = ["  language", "coverage", "pieces per word", "recall@10"]
    return f"{text_table(names, rows)}\n  every language: {artifact.root / 'vocabulary.json'}"
