"""Into which groups the errors on records are told apart."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dmedge.data.languages import language_name
from dmedge.study.looks import contrast, small
from dmedge.study.source import LOW_CONTRAST
from dmedge.study.task import Pairs

SHORT, LONG = 4, 0.8  # words of a short text, at most; share of the texts that a long one exceeds
MANY = 4  # classes of a full picture, at least


def breakdowns(pairs: Pairs, classes: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """By class, answer and language, as far as the data has them: name -> [N] the group of each pair."""
    found: dict[str, Sequence[str]] = {}
    if pairs.kind == "one":
        found["class"] = [classes[label] for label in pairs.label]
    elif pairs.kind == "several":
        found["count"] = [f"{MANY} or more" if len(own) >= MANY else str(len(own)) for own in pairs.scores]
    else:
        found["answer"] = [kind_of_answer(classes[label] if label >= 0 else "") for label in pairs.label]
        found["question"] = [" ".join(text.lower().split()[:2]) for text in pairs.texts]
    if len(set(pairs.languages)) > 1:
        found["language"] = [language_name(tag) for tag in pairs.languages]
    return found


def failure_groups(pairs: Pairs) -> Mapping[str, NDArray[np.bool_]]:
    """Groups that are told apart by looking at the pairs themselves: name -> [N] whether a pair is in it."""
    spread = np.array([contrast(small(picture)[None])[0] for picture in pairs.pictures])
    is_low = spread <= np.quantile(spread, LOW_CONTRAST)
    words = np.array([len(text.split()) for text in pairs.texts])
    shares = Counter(pairs.texts)
    found = {
        f"low contrast (the lowest {LOW_CONTRAST:.0%} of the pictures)": is_low[pairs.picture],
        f"short text ({SHORT} words or fewer)": words <= SHORT,
        f"long text (longer than {LONG:.0%} of them)": words > np.quantile(words, LONG),
        "text that several test pairs share": np.array([shares[text] > 1 for text in pairs.texts]),
    }
    if pairs.kind == "several":
        found[f"several objects ({MANY} or more classes)"] = np.array([len(own) >= MANY for own in pairs.scores])
    return found


def kind_of_answer(answer: str) -> str:
    """As VQA sorts answers: yes or no, a number, or something else."""
    if not answer:
        return "none of the classes"
    if answer in ("yes", "no"):
        return "yes or no"
    return "number" if re.fullmatch(r"\d+", answer) else "other"
