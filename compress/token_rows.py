"""The embedding rows of a text tower: which ones it counts on, and the same tower with fewer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_text import OFFSET

OWN_TABLE = "text.token.weight"


def reserved_rows(config: ModelConfig) -> set[int]:
    """Token ids that a text tower knows by number; they have to stay, and some of them where they are.

    Towers of the RoBERTa family count positions from the id of their padding, so that must not move.
    CLIP pools at the greatest id where its end token is said to be 2, as in its first configurations; so
    2 stays what it is, and nothing else may become it.
    """
    if config.text != "hf":
        return set()
    kind, table = _encoder(config)
    found = {token for name, value in table.items() for token in _token_ids(name, value)}
    if kind in OFFSET:
        found |= set(range((1 if kind == "mpnet" else table["pad_token_id"]) + 1))
    if kind == "clip_text_model":
        found |= {0, 1, 2}
    return {token for token in found if 0 <= token < config.vocab_size}


def keep_rows(model: DualEncoder, keep: Sequence[int]) -> DualEncoder:
    """A copy with the embedding rows `keep` only, in their order; rising, `reserved_rows` among them."""
    state, table = dict(model.state_dict()), token_table(model)
    state[table] = state[table][torch.tensor(keep)]
    text_hf = _renumbered(model.config, keep) if model.config.text == "hf" else model.config.text_hf
    kept = DualEncoder(replace(model.config, vocab_size=len(keep), text_hf=text_hf))
    kept.load_state_dict(state)
    return kept.eval().requires_grad_(False)


def token_table(model: DualEncoder) -> str:
    """Name of the tensor that holds a row for every token id."""
    if model.config.text != "hf":
        return OWN_TABLE
    encoder: Any = model.text.model
    table = encoder.get_input_embeddings()
    return next(f"{name}.weight" for name, module in model.named_modules() if module is table)


def _encoder(config: ModelConfig) -> tuple[str, Mapping[str, Any]]:
    spec: Mapping[str, Any] = config.text_hf
    return spec["model_type"], spec["config"]


def _token_ids(name: str, value: object) -> list[int]:
    """Ids in one setting of an encoder; some name several end tokens."""
    if not name.endswith("_token_id"):
        return []
    return [token for token in (value if isinstance(value, list) else [value]) if type(token) is int]


def _renumbered(config: ModelConfig, keep: Sequence[int]) -> dict[str, object]:
    """`text_hf` with new token ids; those that never were in the vocabulary stay as they are."""
    place = {token: number for number, token in enumerate(keep)}

    def moved(value: object) -> object:
        if isinstance(value, list):
            return [moved(one) for one in value]
        return place.get(value, value) if type(value) is int else value

    table = {name: moved(value) if name.endswith("_token_id") else value for name, value in _encoder(config)[1].items()}
    return {**config.text_hf, "config": {**table, "vocab_size": len(keep)}}
