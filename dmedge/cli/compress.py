"""dmedge compress: a float checkpoint to a smaller one."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dmedge.artifact import Artifact, Manifest
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, out_option, print_json
from dmedge.cli.tables import text_table
from dmedge.config import load_config

FLOAT_SCHEMES = {"float32", "float16", "bfloat16"}


@click.command()
@click.argument("run", type=ArtifactParam("checkpoint"), required=False)
@click.option("--languages", metavar="TAGS", help="Trim the vocabulary to these languages, such as en,hi,sw,zh.")
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the text of each of them that the pieces left make up [default: 1].",
)
@click.option("--int8", is_flag=True, help="Quantize weights and activations to int8.")
@out_option
@click.option(
    "--keep", multiple=True, metavar="MODULE", help="Leave a module, and all below it, in float32; repeatable."
)
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
def compress(run: Artifact | None, languages: str | None, out: Path | None, as_json: bool, **settings: Any) -> None:
    """Make the checkpoint RUN smaller and faster [default: the newest float checkpoint under runs/].

    What is asked for is done in this order: the vocabulary, then int8.
    """
    from dmedge.compress.config import CompressConfig, artifact_name

    if not (languages or settings["int8"]):
        raise click.UsageError("nothing to do; expected --int8, --languages TAGS, or both")
    tags = tuple(tag.strip() for tag in (languages or "").split(",") if tag.strip())
    given = {key: value for key, value in settings.items() if value is not None}
    config = load_config(CompressConfig, given | {"languages": tags}, where="compress")
    parent = run or default_artifact("checkpoint", accept=is_float, what="float checkpoint")
    from dmedge.compress.recipe import compress_artifact

    artifact = compress_artifact(parent, config, out or parent.sibling(artifact_name(asdict(config))))
    if as_json:
        print_json({"path": artifact.root, "digest": artifact.digest, **artifact.manifest.summary})
    else:
        print_result(artifact)


def is_float(manifest: Manifest) -> bool:
    """Whether a checkpoint still has all its precision."""
    return set(manifest.precision.values()) <= FLOAT_SCHEMES


def print_result(artifact: Artifact) -> None:
    """The path, the sizes, what trimming left, and what rounding did on the calibration data."""
    facts: Mapping[str, Any] = artifact.manifest.summary
    click.echo(artifact.root)
    click.echo(f"  weights     {facts['weight_bytes_parent']:,} -> {facts['weight_bytes']:,} bytes")
    if "vocabulary" in facts:
        click.echo(f"  vocabulary  {facts['vocabulary_parent']:,} -> {facts['vocabulary']:,} pieces")
        for name, recalls in (("asked for", facts["recall_at_10_asked"]), ("others", facts["recall_at_10_others"])):
            if recalls:
                click.echo(f"  recall@10   {name}: {recalls[0]:.4f} -> {recalls[1]:.4f}, validation style")
        click.echo(language_table(artifact))
    if "image_sqnr_db" in facts:
        click.echo(
            f"  in int8     {facts['parameter_share_int8']:.1%} of parameters, {facts['mac_share_int8']:.1%} of MACs"
        )
        click.echo(f"  SQNR        image {facts['image_sqnr_db']} dB, text {facts['text_sqnr_db']} dB")
        click.echo(f"  calibrated  {facts['calibration_items']} items in {facts['calibration_languages']} languages")


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
