"""How hard a perturbation is: five steps, each a named number of the perturbation's own.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261 (corruptions at five severities). The numbers
are not theirs: theirs are for pictures of 224 pixels, ours for pictures of 32 to 64, and for texts.
"""

STRENGTHS = (1, 2, 3, 4, 5)
Levels = tuple[float, float, float, float, float]  # of strengths 1 to 5


def level(levels: Levels, strength: int) -> float:
    """The number of one strength.

    Raises:
        ValueError: there is no such strength.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"strength {strength}; expected one of {', '.join(map(str, STRENGTHS))}")
    return levels[strength - 1]
