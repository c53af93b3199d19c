"""By tokenizer.json the library `tokenizers` gives the ids that SentencePiece gives by tokenizer.model."""

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from dmedge.artifact import SHIPPED, Artifact
from dmedge.data.emoji import load_pack
from dmedge.data.tokenizer import Tokenizer
from dmedge.evidence.parity import golden_key
from dmedge.export.charsmap import read_charsmap, read_rules, write_charsmap
from dmedge.export.tokenizer_json import TOKENIZER_JSON, differing_texts, tokenizer_json, write_tokenizer_json
from tests.nasty_texts import NASTY, nasty_texts
from tests.tiny_bundles import int8_checkpoint, onnx_bundle, tiny_checkpoint

__all__ = ["int8_checkpoint", "onnx_bundle", "tiny_checkpoint"]  # fixtures

CONTEXT = 64
APART = ("ties", "astral")  # "00" and "0" in two orders are equally likely, and 𝟘 is a zero as well


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(SHIPPED / "emoji/tokenizer.model", CONTEXT)


@pytest.fixture(scope="module")
def content(tokenizer: Tokenizer) -> str:
    return tokenizer_json(tokenizer)


@pytest.fixture(scope="module")
def rules(tokenizer: Tokenizer) -> dict[str, str]:
    return read_rules(read_charsmap(tokenizer.model_path.read_bytes()))


def test_a_bundle_gives_its_golden_ids(onnx_bundle: Artifact) -> None:
    texts = json.loads(onnx_bundle.file("conformance/cases.json").read_text("utf-8"))["texts"]
    reader = tokenizers.Tokenizer.from_file(str(onnx_bundle.file(TOKENIZER_JSON)))
    with np.load(onnx_bundle.file("conformance/golden.npz")) as golden:
        for case, text in enumerate(texts):
            assert reader.encode(text).ids == golden[golden_key("encode_text", case, "ids")][0].tolist(), ascii(text)
    assert onnx_bundle.manifest.summary["tokenizer_json"] == {"texts": len(texts), "differing": []}
    assert "`tokenizer.json`" in onnx_bundle.file("README.md").read_text("utf-8")


def test_names_in_every_locale_have_the_same_ids(tokenizer: Tokenizer, content: str) -> None:
    names = _all_names()[::40]
    assert len(names) > 4000
    assert not differing_texts(content, tokenizer, names)


@pytest.mark.parametrize("kind", [*(kind for kind in NASTY if kind not in APART), "all"])
def test_nasty_text_has_the_same_ids(kind: str, tokenizer: Tokenizer, content: str) -> None:
    texts = ["", " ", "\u200b", *nasty_texts(kind, 500), "red apple " * 200]
    assert not differing_texts(content, tokenizer, texts)


def test_a_rule_that_spans_characters_goes_to_the_longest_match(
    tokenizer: Tokenizer, content: str, rules: dict[str, str]
) -> None:
    spanning, draws = sorted(key for key in rules if len(key) > 1), random.Random(0)
    marks = sorted({character for key in spanning for character in key[1:]})
    alone = [f"x{key}Y" for key in draws.sample(spanning, 1500)]
    followed = [key + draws.choice(marks) for key in draws.sample(spanning, 1500)]
    assert not differing_texts(content, tokenizer, [*alone, *followed])


@pytest.mark.parametrize(
    "text", ["<pad>", "a <unk> b", "<unk>", "<0x41>", "x<0x00>y", "<0x41", "<<0x41>>", "<0xFF>", "\u2581<unk>", "<"]
)
def test_the_name_of_a_piece_is_text(text: str, tokenizer: Tokenizer, content: str) -> None:
    assert not differing_texts(content, tokenizer, [text])


def test_tokens_become_text_again(content: str) -> None:
    reader = tokenizers.Tokenizer.from_str(content)
    for text in ("red apple", "красное яблоко", "\U0001f34e 林檎 \U00010ffe"):
        assert reader.decode(reader.encode(text).ids) == text


def test_a_text_of_equal_splits_leaves_the_file_out(tokenizer: Tokenizer, content: str, tmp_path: Path) -> None:
    ties = differing_texts(content, tokenizer, nasty_texts("ties", 4000))
    assert 0 < len(ties) < 100
    found = write_tokenizer_json(tmp_path, tokenizer, ["red apple", ties[0]])
    assert found == {"texts": 2, "differing": [ties[0]]}
    assert not list(tmp_path.iterdir())


def test_rules_that_are_written_are_read_again(rules: dict[str, str]) -> None:
    some = {key: result for number, (key, result) in enumerate(sorted(rules.items())) if number % 400 == 0}
    assert len(some) > 500 and max(map(len, some)) > 2
    assert read_rules(write_charsmap(some)) == some
    assert write_charsmap(some) == write_charsmap(dict(reversed(some.items())))


@pytest.mark.slow
@pytest.mark.thorough
def test_every_name_rule_and_character_has_the_same_ids(
    tokenizer: Tokenizer, content: str, rules: dict[str, str]
) -> None:
    assigned = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in ("Cs", "Co", "Cn")]
    texts = [*_all_names(), *(f"a{character}B" for character in assigned), *(f"x{key}Y" for key in rules)]
    assert len(texts) > 500_000
    assert not differing_texts(content, tokenizer, texts)


def _all_names() -> list[str]:
    pack = load_pack()
    return sorted({name for locale in pack.locales for name in pack.names(locale) if name is not None})
