"""How fast retrieval is ranked, both ways, and how much memory it takes; beside a full sort where that fits in memory.

Run it with `python -m benchmarks.retrieval`, or with `--n 100000` for a gallery of that size. Ratios are what carries
over to other machines; both sides run in turns, on the same random embeddings. Each size runs in a process of its own,
so that its peak of memory is its own.
"""

import argparse
import json
import multiprocessing
import resource
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmedge.environment import host_facts, tool_versions
from dmedge.evidence.bootstrap import bootstrap_retention, hit_table
from dmedge.evidence.retrieval import TIE, Floats, Ints, ranks_both_ways
from dmedge.patience import patient_progress

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
MOST_SORTED = 10_000  # pictures and texts: scores and two orders of them take 20 bytes a pair, 2 GB
PROVED = 200  # texts whose ranks are counted one by one, where nothing is sorted


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
    """Duration of one call on the processor, which other programs change little."""
    start = time.process_time()
    call()
    return time.process_time() - start


def peak_bytes(call: Callable[[], object]) -> int:
    """Largest memory that numpy held during one call, beyond what it held before."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(n: int, width: int) -> dict[str, Any]:
    """Figures of n texts among n pictures."""
    rng = np.random.default_rng(0)
    texts, images, match = unit_rows(rng, n, width), unit_rows(rng, n, width), rng.permutation(n)
    ranks: list[Ints] = []

    def block_wise() -> object:
        with patient_progress(f"ranking {n:,} texts among {n:,} pictures", n) as advance:
            found = ranks_both_ways(texts, images, match, advance)
        ranks[:] = found[:1]
        return found

    def sorting() -> object:
        return ranks_by_sorting(texts, images, match)

    row: dict[str, Any] = {"n": n, "width": width, "embeddings_bytes": texts.nbytes + images.nbytes}
    if n > MOST_SORTED:
        tracemalloc.start()
        row["seconds"] = seconds(block_wise)
        row["working_bytes"] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        _prove(ranks[0], texts, images, match)
    else:
        times = [(seconds(block_wise), seconds(sorting)) for _ in range(ROUNDS)]
        ratios = [mine / theirs for mine, theirs in times]
        row["seconds"] = float(np.median([mine for mine, _ in times]))
        row["of_a_sort"] = {"median": float(np.median(ratios)), "least": min(ratios), "most": max(ratios)}
        row["working_bytes"], of_sorting = peak_bytes(block_wise), peak_bytes(sorting)
        row["memory_of_a_sort"] = row["working_bytes"] / of_sorting
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return row | ({"peak_rss_bytes": peak} if n > MOST_SORTED else {})


def _prove(ranks: Ints, texts: Floats, images: Floats, match: Ints) -> None:
    """Count some ranks text by text; rounding may move what lies within a millionth of the tie."""
    for row in np.linspace(0, len(texts) - 1, PROVED).astype(np.int64):
        scores = images @ texts[row]
        ahead = scores - scores[match[row]] + TIE
        low, high = (int(np.sum(ahead >= margin)) for margin in (1e-6, -1e-6))
        assert low <= ranks[row] <= high, f"text {row}: rank {ranks[row]}; expected {low} to {high}"


def words(row: dict[str, Any]) -> str:
    """One line of what is printed."""
    working = row["working_bytes"] / 1e6
    text = f"n {row['n']:7,d}  {row['seconds']:8.2f} s of one core  {working:6.1f} MB beside the embeddings"
    if "of_a_sort" in row:
        ratio = row["of_a_sort"]
        text += f"  time x{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})"
        return f"{text}  memory x{row['memory_of_a_sort']:.3f} of a sort"
    return f"{text}  {row['peak_rss_bytes'] / 1e6:.0f} MB in all"


def bootstrap_seconds() -> float:
    """How long the intervals of 100 languages take."""
    languages, clusters = 100, 1914
    rng = np.random.default_rng(0)
    cluster, language = (index.ravel() for index in np.indices((clusters, languages)))
    hits = rng.random((2, cluster.size)) < 0.7
    table = hit_table(cluster, language, hits[0], hits[1])
    took = seconds(lambda: bootstrap_retention(table))
    print(f"bootstrap, 2,000 draws, {languages} languages x {clusters} emoji: {took:.2f} s")
    return took


def main() -> None:
    """Print one line per size of the problem, and store what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[500, 1914, 6000], help="pictures, and texts")
    parser.add_argument("--width", type=int, default=192, help="of an embedding")
    options = parser.parse_args()
    print(host_facts()["cpu"])
    rows = []
    for n in options.n:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (n, options.width)))
        print(words(rows[-1]))
    table = {"host": host_facts(), "tools": tool_versions(), "rows": rows, "bootstrap_s": bootstrap_seconds()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "retrieval.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
