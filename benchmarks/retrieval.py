"""How fast retrieval is ranked, and how much memory it takes, beside a full sort.

Run it with `python benchmarks/retrieval.py`. Ratios are what carries over to other machines;
both sides run in turns, on the same random embeddings.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from dmedge.environment import host_facts
from dmedge.evidence.bootstrap import bootstrap_retention, hit_table
from dmedge.evidence.retrieval import Floats, Ints, ranks_both_ways

ROUNDS = 5


def ranks_by_sorting(texts: Floats, images: Floats, match: Ints) -> tuple[Ints, Ints]:
    """What most evaluation scripts do: the whole score matrix, sorted both ways."""
    scores = texts @ images.T
    text_order = np.argsort(-scores, axis=1)
    image_order = np.argsort(-scores.T, axis=1)
    rows = np.arange(len(match))
    return (text_order == match[:, None]).argmax(axis=1) + 1, (image_order[match] == rows[:, None]).argmax(axis=1) + 1


def unit_rows(rng: np.random.Generator, n: int, width: int) -> Floats:
    """Random embeddings."""
    rows = rng.standard_normal((n, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def seconds(call: Callable[[], object]) -> float:
    """Duration of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_bytes(call: Callable[[], object]) -> int:
    """Largest memory that numpy held during one call, beyond what it held before."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    """Print one line per size of the problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[500, 1914, 6000], help="pictures, and texts")
    parser.add_argument("--width", type=int, default=192, help="of an embedding")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(host_facts()["cpu"])
    for n in options.n:
        texts, images, match = unit_rows(rng, n, options.width), unit_rows(rng, n, options.width), rng.permutation(n)

        def block_wise() -> object:
            return ranks_both_ways(texts, images, match)  # noqa: B023  # called within the loop

        def sorting() -> object:
            return ranks_by_sorting(texts, images, match)  # noqa: B023

        ratios = [seconds(block_wise) / seconds(sorting) for _ in range(ROUNDS)]
        memory = peak_bytes(block_wise) / peak_bytes(sorting)
        print(f"n {n:5d}  time x{np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})  memory x{memory:.3f}")
    languages, clusters = 100, 1914
    cluster, language = (index.ravel() for index in np.indices((clusters, languages)))
    hits = rng.random((2, cluster.size)) < 0.7
    table = hit_table(cluster, language, hits[0], hits[1])
    took = seconds(lambda: bootstrap_retention(table))
    print(f"bootstrap, 2,000 draws, {languages} languages x {clusters} emoji: {took:.2f} s")


if __name__ == "__main__":
    main()
