"""dmedge index: pictures made searchable by a bundle."""

from pathlib import Path
from typing import Any

import click

from dmedge.artifact import Artifact
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, out_option, print_json
from dmedge.cli.info import format_bytes
from dmedge.data.emoji import TEST_STYLE


@click.command()
@click.argument("words", metavar="[BUNDLE] [FOLDER]", nargs=-1)
@click.option("--style", default=TEST_STYLE, show_default=True, help="Art style of the emoji, without a FOLDER.")
@click.option("--dim", type=click.IntRange(1), metavar="N", help="Numbers kept of each embedding [default: all].")
@click.option("--dtype", type=click.Choice(["int8", "float32"]), default="int8", show_default=True, help="Of each.")
@click.option(
    "--thumbnail", type=click.IntRange(8, 256), default=96, show_default=True, help="Pixels of a small picture."
)
@click.option(
    "--approximate/--exact", default=None, help="A graph of neighbours by usearch [default: above 100,000 pictures]."
)
@click.option(
    "--min-recall",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="Refuse an index that finds less of the ten best of the exact search.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that embed.")
@out_option
@json_option
def index(words: tuple[str, ...], style: str, workers: int, out: Path | None, as_json: bool, **settings: Any) -> None:
    """Embed the pictures below FOLDER with BUNDLE, so that dmedge search and the web app find them.

    BUNDLE is the newest under runs/ unless it is named; without a FOLDER the emoji of --style are embedded.
    What was embedded before is found again, so a stopped or repeated run only does what is new.
    """
    from dmedge.flow.gallery import emoji_gallery, folder_gallery
    from dmedge.flow.index import IndexConfig, build_index

    bundle, folder = _bundle_and_folder(words)
    gallery = folder_gallery(folder) if folder else emoji_gallery(style)
    made = build_index(bundle, gallery, IndexConfig(**settings), out or bundle.sibling("index"), workers=workers)
    if as_json:
        print_json({"path": made.root, "digest": made.digest, "total_bytes": _bytes(made), **made.manifest.summary})
    else:
        click.echo("\n".join(_lines(made, gallery.name)))


def _bundle_and_folder(words: tuple[str, ...]) -> tuple[Artifact, Path | None]:
    """The first word is the bundle, if it is an artifact."""
    if len(words) > 2:
        raise click.UsageError(f"{len(words)} arguments; expected [BUNDLE] [FOLDER]")
    if len(words) == 2 or (words and (Path(words[0]) / "manifest.json").exists()):
        bundle: Artifact = ArtifactParam("bundle").convert(words[0], None, None)
        return bundle, Path(words[1]) if len(words) == 2 else None
    return default_artifact("bundle"), Path(words[0]) if words else None


def _bytes(made: Artifact) -> int:
    return sum(content.size_bytes for content in made.manifest.files.values())


def _lines(made: Artifact, name: str) -> list[str]:
    summary: Any = made.manifest.summary
    kept, files = summary["kept_of_exact"], made.manifest.files
    vectors = sum(content.size_bytes for name, content in files.items() if name.endswith(".npy"))
    left_out = f", {summary['left_out']} unreadable left out" if summary["left_out"] else ""
    selection = "" if summary["selection"] == "all" else f", the {summary['selection']}"
    return [
        str(made.root),
        f"  pictures    {summary['pictures']:,} of {name}{left_out}",
        f"  vectors     {summary['dims']:,} of {summary['embed_dim']:,} numbers{selection}, {summary['dtype']}, "
        f"{format_bytes(vectors)}",
        f"  all files   {format_bytes(_bytes(made))}",
        *(
            f"  kept        recall@1 {row['recall_at_1']:.3f}, recall@10 {row['recall_at_10']:.3f} of the exact "
            f"float32 search, {row['n']} queries by {what}"
            for what, row in sorted(kept.items(), reverse=True)
        ),
    ]
