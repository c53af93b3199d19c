"""Search pictures by text or by a picture, in a gallery or in an index, with the runtime of the artifact."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.data.captions import open_image
from dmedge.data.hf_tokenizer import count_tokens
from dmedge.errors import DataError
from dmedge.flow.evaluate import check_both_encoders
from dmedge.flow.gallery import Gallery, Item, embed_gallery
from dmedge.flow.index_recall import best_places
from dmedge.flow.open_index import Index
from dmedge.runtime.encoder import Encoder

Query = str | Path  # a text, or a picture file
Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]  # places and scores, best first


@dataclass(frozen=True, slots=True)
class Match:
    """One picture found; `index` is its place in the gallery, `score` the cosine with the query."""

    rank: int  # from 1
    score: float
    index: int
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The best matches of a query, best first, and what they were found with."""

    query: str  # the text, or the name of the picture
    tokens: int  # of the whole query; 0 of a picture
    tokens_used: int
    runtime: str
    matches: tuple[Match, ...]


def search_gallery(artifact: Artifact, query: Query, gallery: Gallery, *, top: int, threads: int = 1) -> SearchResult:
    """Rank the pictures of `gallery` by how well they fit `query`.

    Args:
        artifact: a bundle, or a checkpoint.
        query: a text in any language, of which what goes beyond the context length of the model is left out,
            or a picture file.
        gallery: where to search.
        top: how many matches to return, at most.
        threads: that one run of a program may use.

    Raises:
        ArtifactError: the artifact is of a variant without one of the encoders.
        DataError: the query holds nothing, or a picture cannot be read.
        DmedgeError: the artifact does not run.
    """

    def rank(encoder: Encoder, embedding: NDArray[np.float32]) -> Ranking:
        scores = embed_gallery(encoder, artifact, gallery) @ embedding
        best = best_places(scores[None], top)[0]
        return best, scores[best]

    if isinstance(query, str):
        check_both_encoders(artifact)
    return _search(artifact, query, gallery.items, rank, threads)


def search_index(index: Index, encoder: Artifact, query: Query, *, top: int, threads: int = 1) -> SearchResult:
    """Rank the pictures of an index by how well they fit `query`, as `search_gallery` does.

    Args:
        index: where to search.
        encoder: the bundle that it was made with, see `find_encoder`.
        query: a text or a picture file.
        top: how many matches to return, at most.
        threads: that one run of a program may use.

    Raises:
        DataError: the query holds nothing, or is a picture that cannot be read.
        DmedgeError: the bundle does not run.
    """
    return _search(encoder, query, index.gallery.items, lambda _, embedding: index.best(embedding, top), threads)


def _search(
    artifact: Artifact,
    query: Query,
    items: tuple[Item, ...],
    rank: Callable[[Encoder, NDArray[np.float32]], Ranking],
    threads: int,
) -> SearchResult:
    if isinstance(query, str) and not query.strip():
        raise DataError("the query is empty; expected a word or a phrase, in any language; type one")
    picture = open_image(query) if isinstance(query, Path) else None
    with Encoder(artifact, threads=threads, show_progress=False) as encoder:
        embedding = encoder.texts([str(query)])[0] if picture is None else encoder.images([picture])[0]
        best, scores = rank(encoder, embedding)
        runtime = encoder.facts()[0]["runtime"]
    text = query if isinstance(query, str) else None
    return SearchResult(
        query=text if text is not None else Path(query).name,
        tokens=0 if text is None else count_tokens(encoder.tokenizer, text),
        tokens_used=0 if text is None else len(encoder.tokenizer.encode(text)),
        runtime=runtime,
        matches=tuple(
            Match(place, float(score), int(index), items[index])
            for place, (index, score) in enumerate(zip(best, scores, strict=True), 1)
        ),
    )
