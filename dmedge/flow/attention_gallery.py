"""A page of heat maps in many scripts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from dmedge.artifact import Artifact
from dmedge.data.emoji import TEST_STYLE, load_pack
from dmedge.errors import DataError
from dmedge.evidence.attention_study import Target
from dmedge.flow.explain import Explanation, explain_pair
from dmedge.flow.explain_files import check_out, write_page
from dmedge.flow.explain_page import render_gallery
from dmedge.model.checkpoint import Checkpoint, load_checkpoint

SHOWN = {"1F35C": "en", "1F431": "hi", "2602": "ar", "1F682": "zh", "1F418": "th", "1F451": "el", "1F34E": "ru"}


@dataclass(frozen=True, eq=False)
class Triple:
    """A picture, a text, and the language of the text, as a locale."""

    image: Image.Image
    text: str
    language: str


def write_gallery(
    checkpoint: Artifact | Checkpoint, triples: Sequence[Triple], out: Path, *, title: str, target: Target = "match"
) -> Path:
    """Write one HTML page with the attention of every triple to the new file `out`.

    Raises:
        DataError: `out` exists or is no .html, or there is no triple, or a text is empty.
        ArtifactError: the checkpoint has no cross-attention.
    """
    check_out(out, (".html",))
    if not triples:
        raise DataError("no pictures to show; expected one at least")
    model = load_checkpoint(checkpoint) if isinstance(checkpoint, Artifact) else checkpoint
    write_page(out, render_gallery(explain_triples(model, triples, target), title))
    return out


def explain_triples(checkpoint: Checkpoint, triples: Sequence[Triple], target: Target = "match") -> list[Explanation]:
    """Explain every triple, and keep its language.

    Raises:
        DataError: a text is empty.
        ArtifactError: the checkpoint has no cross-attention.
    """
    found = (explain_pair(checkpoint, one.image, one.text, target=target) for one in triples)
    return [replace(one, language=triple.language) for one, triple in zip(found, triples, strict=True)]


def emoji_triples(style: str = TEST_STYLE) -> list[Triple]:
    """Seven emoji of the pack with their names in languages of seven scripts."""
    pack = load_pack()
    images, _ = pack.images(style)
    place = {emoji.hexcode: i for i, emoji in enumerate(pack.emoji)}
    names = {language: pack.names(language) for language in SHOWN.values()}
    return [
        Triple(Image.fromarray(images[place[code]]), str(names[language][place[code]]), language)
        for code, language in SHOWN.items()
    ]
