"""How alike two rankings of one gallery are, the first places counting most."""

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.retrieval import Ints, blocks

PERSISTENCE = 0.9  # chance that a reader goes on to the next place; the first ten places then have 86 % of the weight
DEPTH = 50  # places that are compared; later ones have a weight of 0.9^50, which is 0.005


def shared_places(mine: Ints, theirs: Ints) -> Ints:
    """How many candidates two rankings have in common among their first d places.

    Args:
        mine: [T, D] candidates of T rankings, the best first, none twice.
        theirs: [T, D] the same of others.

    Returns:
        [T, D] number in common among the first 1, 2, ... D.
    """
    depth = mine.shape[1]
    found = np.empty(mine.shape, np.int64)
    for rows in blocks(len(mine), depth * depth):
        is_same = mine[rows, :, None] == theirs[rows, None, :]  # [b, D, D]
        place = np.where(is_same.any(2), np.maximum(is_same.argmax(2), np.arange(depth)), depth)
        count = (place[:, :, None] == np.arange(depth)).sum(1)  # [b, D] of those complete at this place
        found[rows] = count.cumsum(1)
    return found


def rank_biased_overlap(shared: Ints, persistence: float = PERSISTENCE) -> NDArray[np.float64]:
    """Mean overlap of the first 1, 2, 3, ... places, each with less weight than the one before; 0 to 1.

    What lies beyond the last place is taken to overlap as much as the places before it do. It can be
    otherwise: its whole weight is `persistence` to the power of D.

    Args:
        shared: [T, D] from `shared_places`.

    Returns:
        [T] extrapolated overlaps; 1 for equal rankings, 0 for rankings with nothing in common.

    Source: Webber, Moffat and Zobel 2010, doi:10.1145/1852102.1852106, RBO_ext of lists of equal length.
    """
    place = np.arange(1, shared.shape[1] + 1)
    agreement = shared / place
    weight = (1 - persistence) * persistence ** (place - 1.0)
    overlap: NDArray[np.float64] = agreement @ weight + agreement[:, -1] * persistence ** float(place[-1])
    return overlap
