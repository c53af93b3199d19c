"""An approximate index for galleries that are too large to look at every picture: usearch, an optional package."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.errors import require
from dmedge.flow.index_vectors import Floats, Vectors, quantize_rows
from dmedge.patience import patient_progress

FILE = "approximate.usearch"
FROM = 100_000  # pictures; below, an exact search takes milliseconds
CANDIDATES = 10  # times as many as are asked for; the exact score of the index decides among them
_CONNECTIVITY, _EXPANSION = 24, 128
_CHUNK = 2048  # rows between two steps of the progress display


class Graph:
    """A graph of neighbours (HNSW) over the rows of an index."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def best(self, vectors: Vectors, embeddings: Floats, k: int) -> NDArray[np.int64]:
        """[Q, k] places of the rows of `vectors` that fit [Q, embed_dim] embeddings, best first."""
        rows = []
        for query in vectors.query(embeddings):
            probe = query if vectors.scales is None else quantize_rows(query[None])[0][0]
            found = np.asarray(self._graph.search(probe, k * CANDIDATES).keys).astype(np.int64)
            scores = vectors.rows(found) @ query
            rows.append(found[np.argsort(-scores, kind="stable")[:k]])
        return np.array(rows, np.int64)


def write_graph(root: Path, vectors: Vectors) -> Graph:
    """Build the graph of an index and write it to `approximate.usearch`, on one thread, so that it repeats.

    The cosine of int8 codes is that of the rows, whatever their scales.

    Raises:
        DmedgeError: usearch is not installed.
    """
    usearch = require("usearch.index", "index")
    graph = usearch.Index(
        ndim=vectors.codes.shape[1],
        metric="cos",
        dtype="f32" if vectors.scales is None else "i8",
        connectivity=_CONNECTIVITY,
        expansion_add=_EXPANSION,
        expansion_search=_EXPANSION,
    )
    with patient_progress("linking neighbours", len(vectors.codes)) as advance:
        for start in range(0, len(vectors.codes), _CHUNK):
            rows = vectors.codes[start : start + _CHUNK]
            graph.add(np.arange(start, start + len(rows), dtype=np.uint64), rows, threads=1)
            advance(len(rows))
    graph.save(str(root / FILE))
    return Graph(graph)


def read_graph(root: Path) -> Graph:
    """Open the graph of an index without reading all of it.

    Raises:
        DmedgeError: usearch is not installed.
    """
    usearch = require("usearch.index", "index")
    return Graph(usearch.Index.restore(str(root / FILE), view=True))
