"""Tokenizers of imported models: the ids are those of the original, text by text."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmedge.artifact import load_artifact, new_artifact
from dmedge.data.hf_tokenizer import (
    RULES,
    HfTokenizer,
    TokenizerRules,
    count_tokens,
    open_tokenizer,
    rules_json,
    tokenizer_file_names,
)
from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import ArtifactError, DataError
from dmedge.model.hf_source import Source
from dmedge.model.hf_text import read_tokenizer
from tests.tiny_bundles import tiny_tokenizer
from tests.tiny_hf import (
    CONTEXT,
    TEXTS,
    bert_tokenizer,
    clip_tokenizer,
    modernbert_tokenizer,
    siglip2_tokenizer,
    siglip_tokenizer,
    xlmr_tokenizer,
)

MAKERS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # name -> model_type, tokenizer
    "clip": ("clip_text_model", lambda folder: clip_tokenizer()),
    "bert": ("bert", lambda folder: bert_tokenizer()),
    "xlm-roberta": ("xlm-roberta", lambda folder: xlmr_tokenizer()),
    "modernbert": ("modernbert", lambda folder: modernbert_tokenizer()),
    "siglip": ("siglip_text_model", siglip_tokenizer),
    "siglip2": ("siglip_text_model", lambda folder: siglip2_tokenizer()),
}
FILLED = ("siglip", "siglip2")


def make(name: str, folder: Path, **changes: Any) -> tuple[Any, HfTokenizer]:
    """The original, loaded again from its files, and what is read from them."""
    import transformers

    model_type, maker = MAKERS[name]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    original = maker(folder)
    original.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    source = Source(folder, name, None, {}, None, model_type)
    return transformers.AutoTokenizer.from_pretrained(folder), read_tokenizer(source, model_type, CONTEXT)


@pytest.mark.parametrize("name", MAKERS)
def test_ids_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    original, tokenizer = make(name, tmp_path / name)
    padding = "max_length" if name in FILLED else False
    for text in TEXTS:
        wanted = original(text, truncation=True, max_length=CONTEXT, padding=padding)["input_ids"]
        assert tokenizer.encode(text) == wanted, text
        assert max(wanted) < tokenizer.vocab_size
    assert len(tokenizer.encode(TEXTS[-1])) == CONTEXT, "the last text is cut"


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in FILLED])
def test_batch_is_padded_and_masked_like_the_original(name: str, tmp_path: Path) -> None:
    original, tokenizer = make(name, tmp_path / name)
    wanted = original(list(TEXTS), truncation=True, max_length=CONTEXT, padding=True, return_tensors="np")
    ids, mask = tokenizer.batch(TEXTS)
    assert ids.dtype == mask.dtype == np.int32
    np.testing.assert_array_equal(ids, wanted["input_ids"])
    np.testing.assert_array_equal(mask, wanted["attention_mask"])


@pytest.mark.parametrize("name", FILLED)
def test_filled_text_has_no_mask_where_the_original_gives_none(name: str, tmp_path: Path) -> None:
    original, tokenizer = make(name, tmp_path / name)
    assert "attention_mask" not in original("a")
    ids, mask = tokenizer.batch(["a", TEXTS[-1]])
    assert ids.shape == (2, CONTEXT)
    assert mask.all()


def test_filled_text_has_the_mask_that_the_original_gives(tmp_path: Path) -> None:
    original, tokenizer = make("siglip", tmp_path / "s", model_input_names=["input_ids", "attention_mask"])
    wanted = original(list(TEXTS), truncation=True, max_length=CONTEXT, padding="max_length", return_tensors="np")
    ids, mask = tokenizer.batch(TEXTS)
    np.testing.assert_array_equal(ids, wanted["input_ids"])
    np.testing.assert_array_equal(mask, wanted["attention_mask"])


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_left_truncation_and_left_padding_are_taken_over(name: str, tmp_path: Path) -> None:
    original, tokenizer = make(name, tmp_path / name, truncation_side="left", padding_side="left")
    assert (original.truncation_side, original.padding_side) == ("left", "left")
    padding = "max_length" if name in FILLED else False
    for text in TEXTS:
        wanted = original(text, truncation=True, max_length=CONTEXT, padding=padding)["input_ids"]
        assert tokenizer.encode(text) == wanted, text


@pytest.mark.parametrize("name", MAKERS)
def test_shorter_context_cuts_as_the_original_does(name: str, tmp_path: Path) -> None:
    original, whole = make(name, tmp_path / name)
    tokenizer = HfTokenizer(whole.files, 6)
    padding = "max_length" if name in FILLED else False
    for text in TEXTS:
        assert tokenizer.encode(text) == original(text, truncation=True, max_length=6, padding=padding)["input_ids"]


@pytest.mark.parametrize("name", MAKERS)
def test_count_is_that_of_the_uncut_text(name: str, tmp_path: Path) -> None:
    original, tokenizer = make(name, tmp_path / name)
    before = tokenizer.encode(TEXTS[-1])
    for text in TEXTS:
        assert count_tokens(tokenizer, text) == len(original(text)["input_ids"])
    assert tokenizer.encode(TEXTS[-1]) == before


@pytest.mark.parametrize("name", MAKERS)
def test_pieces_are_those_of_the_uncut_text_alone(name: str, tmp_path: Path) -> None:
    original, tokenizer = make(name, tmp_path / name)
    for text in TEXTS:
        assert tokenizer.pieces(text) == original(text, add_special_tokens=False)["input_ids"]
    assert len(tokenizer.pieces(TEXTS[-1])) > CONTEXT


@pytest.mark.parametrize("name", ["clip", "siglip"])  # an engine each
def test_names_of_pieces_are_what_a_person_reads(name: str, tmp_path: Path) -> None:
    _, tokenizer = make(name, tmp_path / name)
    names = [tokenizer.piece(token) for token in tokenizer.pieces("red apple")]
    assert all(names)
    assert re.sub("\u2581|</w>", "", "".join(names)) == "redapple"
    assert tokenizer.piece(tokenizer.rules.pad_id)  # it stands for no letter, and has a name


@pytest.mark.parametrize("name", MAKERS)
def test_survives_pickling_and_odd_text(name: str, tmp_path: Path) -> None:
    _, tokenizer = make(name, tmp_path / name)
    again: HfTokenizer = pickle.loads(pickle.dumps(tokenizer))
    for text in (*TEXTS, "\ud800 lone surrogate", "\x00", "\u200d"):
        assert again.encode(text) == tokenizer.encode(text) != []


def test_empty_batch(tmp_path: Path) -> None:
    _, tokenizer = make("bert", tmp_path / "bert")
    ids, mask = tokenizer.batch([])
    assert ids.shape == mask.shape == (0, 0)


@pytest.mark.parametrize("name", ["bert", "siglip"])
def test_artifact_gives_it_back(name: str, tmp_path: Path) -> None:
    _, tokenizer = make(name, tmp_path / name)
    with new_artifact(tmp_path / "artifact") as draft:
        tokenizer.write(draft.path)
        draft.finish(kind="checkpoint", stage="test", config={})
    artifact = load_artifact(tmp_path / "artifact")
    found = open_tokenizer(artifact, CONTEXT)
    assert isinstance(found, HfTokenizer)
    assert [found.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert set(tokenizer_file_names(artifact)) == set(artifact.manifest.files)


def test_artifact_with_an_own_tokenizer_gives_that(tmp_path: Path) -> None:
    with new_artifact(tmp_path / "artifact") as draft:
        own = tiny_tokenizer(draft.path)
        wanted = own.encode("red apple")
        draft.finish(kind="checkpoint", stage="test", config={})
    artifact = load_artifact(tmp_path / "artifact")
    found = open_tokenizer(artifact, 2)
    assert isinstance(found, Tokenizer)
    assert found.encode("red apple") == wanted[:2]
    assert count_tokens(found, "red apple " * 9) == len(Tokenizer(found.model_path, 1000).encode("red apple " * 9)) > 2
    assert tokenizer_file_names(artifact) == ("tokenizer.model",)


def test_artifact_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with new_artifact(tmp_path / "artifact") as draft:
        artifact = draft.finish(kind="checkpoint", stage="test", config={})
    with pytest.raises(ArtifactError, match="no file 'tokenizer.model'"):
        open_tokenizer(artifact, CONTEXT)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "tokenizer_rules.json: cannot be read"),
        ({RULES: b"{"}, "tokenizer_rules.json: cannot be read"),
        ({RULES: b'{"kind": "magic", "pad_id": 0}'}, "tokenizer_rules.json: cannot be read .*magic"),
        ({RULES: b'{"kind": "tokenizers", "pad_id": -1}'}, "pad_id -1; expected"),
        ({RULES: b'{"kind": "tokenizers", "pad_id": 0}'}, "no tokenizer.json beside"),
        ({RULES: b'{"kind": "tokenizers", "pad_id": 0}', "tokenizer.json": b"{}"}, "tokenizer.json: cannot be read"),
        ({RULES: b'{"kind": "sentencepiece", "pad_id": 0}', "spiece.model": b"?"}, "spiece.model: cannot be read"),
    ],
    ids=["none", "broken", "unknown kind", "bad pad", "no vocabulary", "bad tokenizers", "bad sentencepiece"],
)
def test_unusable_files_are_refused(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        HfTokenizer(files, CONTEXT)


def test_rules_round_trip() -> None:
    rules = TokenizerRules(kind="sentencepiece", pad_id=1, pads=True, masks=False, end_id=1, lowercases=True)
    assert TokenizerRules(**json.loads(rules_json(rules))) == rules
