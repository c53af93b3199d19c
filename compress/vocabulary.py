"""Trimming a vocabulary: the pieces that the text of some languages uses, and their embedding rows.

In a multilingual text tower the embedding table outweighs everything else, and most of its rows are
of languages that an app does not offer. What is left segments text as before wherever all of its
pieces are left, so that such text embeds bit for bit as it did.

Source: Abdaoui et al. 2020, arXiv:2010.05609 (smaller versions of multilingual BERT).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmedge.compress import sentencepiece_model, tokenizer_json
from dmedge.compress.token_rows import keep_rows, reserved_rows
from dmedge.data.hf_tokenizer import RULES, VOCABULARIES, AnyTokenizer, HfTokenizer, Kind, rules_json
from dmedge.data.tokenizer import Tokenizer
from dmedge.model.checkpoint import TOKENIZER, Checkpoint


class Format(NamedTuple):
    """What trimming asks of a kind of vocabulary file."""

    close: Callable[[bytes, Iterable[int]], set[int]]  # the ids wanted, and those that they need beside them
    keep: Callable[[bytes, Sequence[int]], bytes]  # the file with these ids only


FORMATS: Mapping[Kind, Format] = {
    "sentencepiece": Format(sentencepiece_model.close_pieces, sentencepiece_model.keep_pieces),
    "tokenizers": Format(tokenizer_json.close_pieces, tokenizer_json.keep_pieces),
}


def count_pieces(tokenizer: AnyTokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often every token id occurs in `texts`, without special tokens and padding."""
    times = Counter(texts)
    rows = _rows(tokenizer, list(times))
    tokens = np.fromiter(chain.from_iterable(rows), np.int64)
    often = np.repeat(np.fromiter(times.values(), np.int64), [len(row) for row in rows])
    counts = np.zeros(tokens.max(initial=-1) + 1, np.int64)
    np.add.at(counts, tokens, often)
    return Counter({token: int(counts[token]) for token in np.flatnonzero(counts).tolist()})


def _rows(tokenizer: AnyTokenizer, texts: Sequence[str]) -> list[list[int]]:
    if isinstance(tokenizer, HfTokenizer):
        return [tokenizer.pieces(text) for text in texts]
    return tokenizer.encode_all(texts)


def frequent_pieces(counts: Mapping[int, int], coverage: float) -> set[int]:
    """The fewest token ids that make up at least a share `coverage` of all tokens counted."""
    needed, covered, chosen = coverage * sum(counts.values()), 0, set()
    for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= needed:
            break
        chosen.add(token)
        covered += count
    return chosen


def kept_pieces(checkpoint: Checkpoint, wanted: Iterable[int]) -> tuple[int, ...]:
    """Token ids to keep so that text made of `wanted` pieces is segmented and embedded as before, in order.

    Beside them, those that the tower or the tokenizer knows by number, and those that the kind of
    vocabulary needs to arrive at the others.

    Raises:
        ConfigError: the vocabulary is of a kind that cannot be trimmed.
    """
    tokenizer = checkpoint.tokenizer
    chosen = set(wanted) | reserved_rows(checkpoint.model.config)
    if isinstance(tokenizer, HfTokenizer):
        chosen |= tokenizer.reserved
    kind, content = _vocabulary(tokenizer)
    return tuple(sorted(FORMATS[kind].close(content, chosen)))


def trim_vocabulary(checkpoint: Checkpoint, keep: Sequence[int], folder: Path) -> Checkpoint:
    """A checkpoint with only the token ids `keep`, renumbered in their order.

    Args:
        checkpoint: float; it is left as it was.
        keep: rising token ids, those that `kept_pieces` adds among them.
        folder: where a vocabulary of dmedge's own is written; it must stay as long as the checkpoint is used.

    Raises:
        ConfigError: the vocabulary is of a kind that cannot be trimmed.
        DataError: it cannot be numbered anew.
    """
    tokenizer = checkpoint.tokenizer
    kind, content = _vocabulary(tokenizer)
    kept = FORMATS[kind].keep(content, keep)
    made = _imported(tokenizer, kept, keep) if isinstance(tokenizer, HfTokenizer) else _own(tokenizer, kept, folder)
    return replace(checkpoint, model=keep_rows(checkpoint.model, keep), tokenizer=made)


def vocabulary_files(tokenizer: AnyTokenizer) -> Mapping[str, bytes]:
    """All that decides which ids a text gets, by file name."""
    return tokenizer.files if isinstance(tokenizer, HfTokenizer) else {TOKENIZER: tokenizer.model_path.read_bytes()}


def _vocabulary(tokenizer: AnyTokenizer) -> tuple[Kind, bytes]:
    if isinstance(tokenizer, HfTokenizer):
        kind = tokenizer.rules.kind
        return kind, tokenizer.files[VOCABULARIES[kind]]
    return "sentencepiece", tokenizer.model_path.read_bytes()


def _own(tokenizer: Tokenizer, content: bytes, folder: Path) -> Tokenizer:
    path = folder / TOKENIZER
    path.write_bytes(content)
    return Tokenizer(path, tokenizer.context_length)


def _imported(tokenizer: HfTokenizer, content: bytes, keep: Sequence[int]) -> HfTokenizer:
    rules, place = tokenizer.rules, {token: number for number, token in enumerate(keep)}
    end_id = None if rules.end_id is None else place[rules.end_id]
    rules = replace(rules, pad_id=place[rules.pad_id], end_id=end_id)
    return HfTokenizer({RULES: rules_json(rules), VOCABULARIES[rules.kind]: content}, tokenizer.context_length)
