"""Search pictures by text with an exported artifact, in the runtime it is made for."""

from dataclasses import dataclass

import numpy as np

from dmedge.artifact import Artifact
from dmedge.data.hf_tokenizer import count_tokens
from dmedge.errors import DataError
from dmedge.flow.gallery import Gallery, Item, embed_gallery
from dmedge.runtime.encoder import Encoder


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

    query: str
    tokens: int  # of the whole query
    tokens_used: int
    runtime: str
    matches: tuple[Match, ...]


def search_gallery(artifact: Artifact, query: str, gallery: Gallery, *, top: int, threads: int = 1) -> SearchResult:
    """Rank the pictures of `gallery` by how well they fit `query`.

    Args:
        artifact: a bundle, or a checkpoint.
        query: any language; what goes beyond the context length of the model is left out.
        gallery: where to search.
        top: how many matches to return, at most.
        threads: that one run of a program may use.

    Raises:
        DataError: the query holds nothing, or a picture cannot be read.
        DmedgeError: the artifact does not run.
    """
    if not query.strip():
        raise DataError("the query is empty; expected a word or a phrase, in any language; type one")
    with Encoder(artifact, threads=threads) as encoder:
        images = embed_gallery(encoder, artifact, gallery)
        scores = images @ encoder.texts([query])[0]
        runtime = encoder.facts()[0]["runtime"]
    best = np.argsort(-scores, kind="stable")[:top]
    used = len(encoder.tokenizer.encode(query))
    return SearchResult(
        query=query,
        tokens=count_tokens(encoder.tokenizer, query),
        tokens_used=used,
        runtime=runtime,
        matches=tuple(
            Match(rank, float(scores[index]), int(index), gallery.items[index]) for rank, index in enumerate(best, 1)
        ),
    )
