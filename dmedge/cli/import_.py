"""dmedge import: a dual encoder of Hugging Face as a checkpoint."""

from pathlib import Path

import click

from dmedge.cli.common import RUNS, json_option, print_json


@click.command("import")
@click.argument("source", metavar="PATH_OR_NAME")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to create [default: runs/NAME].")
@json_option
def import_(source: str, out: Path | None, as_json: bool) -> None:
    """Turn a CLIP, SigLIP, SigLIP2 or VisionTextDualEncoder of Hugging Face into a checkpoint.

    PATH_OR_NAME is a local folder, or a name on the Hugging Face hub such as google/siglip2-base-patch16-224.
    Preprocessing and tokenizer are taken over, and the embeddings are compared with the original's.
    """
    from dmedge.model.hf_import import import_checkpoint

    artifact = import_checkpoint(source, out or RUNS / Path(source).resolve().name)
    facts = {"path": artifact.root, "digest": artifact.digest, **artifact.manifest.summary}
    if as_json:
        print_json(facts)
    else:
        click.echo(artifact.root)
