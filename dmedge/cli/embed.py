"""dmedge embed: what a teacher makes of training data, computed once."""

from pathlib import Path

import click

from dmedge.cli.common import json_option, print_json
from dmedge.cli.info import format_bytes
from dmedge.errors import DataError


@click.command()
@click.argument("teacher")
@click.option("--data", default="emoji", show_default=True, help="emoji, or a FOLDER with images/ and captions.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to create, .safetensors [default: TEACHER-embeddings.safetensors].",
)
@json_option
def embed(teacher: str, data: str, out: Path | None, as_json: bool) -> None:
    """Embed all training text and pictures once, for dmedge compress --distill FILE.

    TEACHER is a checkpoint, imported ones too, or universal-sentence-encoder, which reads text alone. A large teacher
    then costs its student nothing, and one that reads other tokens teaches on every text.
    """
    from dmedge.compress.embeddings import SUFFIX, embed_data, write_embeddings
    from dmedge.compress.teachers import open_embedder

    out = out or Path(f"{Path(teacher).name}-embeddings{SUFFIX}")
    if out.suffix != SUFFIX:
        raise click.UsageError(f"--out is {out.name}; expected a name that ends in {SUFFIX}")
    if out.exists():
        raise DataError(f"{out}: exists already; expected a new file; choose another --out or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)  # before the long part
    arrays = embed_data(*open_embedder(teacher), data)
    write_embeddings(out, arrays, teacher)
    facts = {name.removesuffix("_ids"): len(ids) for name, ids in arrays.items() if name.endswith("_ids")}
    width = next(rows.shape[1] for name, rows in arrays.items() if name.endswith("_embeddings"))
    if as_json:
        print_json({"path": out, "bytes": out.stat().st_size, "dims": width, **facts})
        return
    click.echo(out)
    counts = ", ".join(f"{count:,} {kind}s" for kind, count in facts.items())
    click.echo(f"  {counts}, {width:,} numbers each, {format_bytes(out.stat().st_size)}")
