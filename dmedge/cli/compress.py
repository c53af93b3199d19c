"""dmedge compress: a float checkpoint to an int8 one."""

from dataclasses import replace
from pathlib import Path

import click

from dmedge.artifact import Artifact, Manifest
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, out_option, print_json

FLOAT_SCHEMES = {"float32", "float16", "bfloat16"}


@click.command()
@click.argument("run", type=ArtifactParam("checkpoint"), required=False)
@click.option("--int8", is_flag=True, required=True, help="Quantize weights and activations to int8.")
@out_option
@click.option(
    "--keep", multiple=True, metavar="MODULE", help="Leave a module, and all below it, in float32; repeatable."
)
@click.option(
    "--calibration", "items", type=click.IntRange(min=1), help="Pictures and texts to calibrate with [default: 256]."
)
@json_option
def compress(
    run: Artifact | None, int8: bool, out: Path | None, keep: tuple[str, ...], items: int | None, as_json: bool
) -> None:
    """Make the checkpoint RUN smaller and faster [default: the newest float checkpoint under runs/]."""
    from dmedge.compress.config import CompressConfig

    config = CompressConfig(int8=int8, keep=keep)
    if items is not None:
        config = replace(config, calibration_items=items)
    parent = run or default_artifact("checkpoint", accept=is_float, what="float checkpoint")
    from dmedge.compress.recipe import compress_artifact

    artifact = compress_artifact(parent, config, out or parent.sibling("int8"))
    if as_json:
        print_json({"path": artifact.root, "digest": artifact.digest, **artifact.manifest.summary})
    else:
        print_result(artifact)


def is_float(manifest: Manifest) -> bool:
    """Whether a checkpoint still has all its precision."""
    return set(manifest.precision.values()) <= FLOAT_SCHEMES


def print_result(artifact: Artifact) -> None:
    """The path, the sizes, and what rounding did on the calibration data."""
    facts = artifact.manifest.summary
    click.echo(artifact.root)
    click.echo(f"  weights     {facts['weight_bytes_parent']:,} -> {facts['weight_bytes']:,} bytes")
    click.echo(
        f"  in int8     {facts['parameter_share_int8']:.1%} of parameters, {facts['mac_share_int8']:.1%} of MACs"
    )
    click.echo(f"  SQNR        image {facts['image_sqnr_db']} dB, text {facts['text_sqnr_db']} dB")
    click.echo(f"  calibrated  {facts['calibration_items']} items in {facts['calibration_languages']} languages")
