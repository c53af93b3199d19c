"""dmedge search: find pictures by a word in any language."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, print_json
from dmedge.data.emoji import TEST_STYLE

if TYPE_CHECKING:
    from dmedge.flow.gallery import Gallery
    from dmedge.flow.search import SearchResult

STRIP = Path("dmedge-search.png")
_WORDS_SHOWN = 60  # letters of a query in the heading


@click.command()
@click.argument("words", metavar="[BUNDLE_OR_INDEX] QUERY", nargs=-1)
@click.option("--style", default=TEST_STYLE, show_default=True, help="Art style of the emoji to search in.")
@click.option("--images", type=click.Path(path_type=Path), help="Search the pictures of this folder instead.")
@click.option("--image", type=click.Path(path_type=Path, dir_okay=False), help="Find what looks like this picture.")
@click.option("--encoder", type=ArtifactParam("bundle"), help="The bundle of an index [default: found by its digest].")
@click.option("--top", type=click.IntRange(1, 100), default=5, show_default=True, help="Matches to show.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=STRIP,
    show_default=True,
    help="PNG strip of the query and its matches; an older one is replaced.",
)
@json_option
def search(
    words: tuple[str, ...],
    style: str,
    images: Path | None,
    image: Path | None,
    encoder: Artifact | None,
    top: int,
    out: Path,
    as_json: bool,
) -> None:
    """Find what fits QUERY, a word or a phrase in any language, with a bundle in its own runtime.

    BUNDLE is a directory that dmedge export made [default: the newest under runs/], INDEX one that dmedge index
    made. With --image a picture is the query.
    """
    from dmedge.flow.atomic import write_atomically
    from dmedge.flow.gallery import emoji_gallery, folder_gallery
    from dmedge.flow.open_index import find_encoder, open_index
    from dmedge.flow.search import search_gallery, search_index
    from dmedge.flow.strip import draw_strip

    artifact, query = _artifact_and_query(words, image)
    if artifact.manifest.kind == "index":
        index = open_index(artifact)
        gallery, found_encoder = index.gallery, find_encoder(artifact, encoder)
        result = search_index(index, found_encoder, query, top=top)
    else:
        gallery = folder_gallery(images) if images else emoji_gallery(style)
        result = search_gallery(artifact, query, gallery, top=top)
    write_atomically(out, lambda stream: draw_strip(result, gallery).save(stream, "PNG"))
    if result.tokens > result.tokens_used:
        click.echo(f"the query has {result.tokens:,} tokens; the first {result.tokens_used} were used", err=True)
    if as_json:
        print_json(_table(result, artifact, gallery, out))
    else:
        click.echo("\n".join(_lines(result, artifact, gallery, out)))


def _artifact_and_query(words: tuple[str, ...], image: Path | None) -> tuple[Artifact, str | Path]:
    """A shell hands over arguments that are not UTF-8 as lone surrogates, which nothing can print."""
    texts = 0 if image else 1
    if len(words) not in (texts, texts + 1):
        expected = "[BUNDLE_OR_INDEX]" if image else "[BUNDLE_OR_INDEX] QUERY"
        hint = "--image is the query" if image else "put quotes around a phrase"
        raise click.UsageError(f"{len(words)} arguments; expected {expected}; {hint}")
    if len(words) == texts == 1 and (Path(words[0]) / "manifest.json").exists():
        raise click.UsageError(f"{words[0]} is an artifact; expected [BUNDLE_OR_INDEX] QUERY; say what to find in it")
    artifact = load_artifact(Path(words[0])) if len(words) > texts else default_artifact("bundle")
    return artifact, image or words[-1].encode("utf-8", "replace").decode("utf-8")


def _lines(result: "SearchResult", artifact: Artifact, gallery: "Gallery", out: Path) -> list[str]:
    shown = " ".join(result.query[: _WORDS_SHOWN + 1].split())
    shown = shown if len(result.query) <= _WORDS_SHOWN else f"{shown[:_WORDS_SHOWN]}..."
    heading = (
        f"{shown!r} among {len(gallery.items):,} pictures of {gallery.name}, by {artifact.root} ({result.runtime})"
    )
    rows = [
        f"{match.rank:>4}  {match.score:6.3f}  {f'{match.item.char} ' if match.item.char else ''}{match.item.name}"
        for match in result.matches
    ]
    return [heading, "rank   score", *rows, f"strip: {out}"]


def _table(result: "SearchResult", artifact: Artifact, gallery: "Gallery", out: Path) -> dict[str, object]:
    return {
        "query": result.query,
        "tokens": result.tokens,
        "tokens_used": result.tokens_used,
        "artifact": artifact.root,
        "artifact_sha256": artifact.digest,
        "runtime": result.runtime,
        "gallery": gallery.name,
        "gallery_size": len(gallery.items),
        "matches": [
            {
                "rank": match.rank,
                "score": match.score,
                "name": match.item.name,
                "char": match.item.char,
                "file": match.item.file,
            }
            for match in result.matches
        ],
        "strip": out,
    }
