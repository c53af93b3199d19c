"""Tokens: any text gives at least one and at most context_length of them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from dmedge.data.emoji import load_pack
from dmedge.data.tokenizer import PAD_ID, UNKNOWN_ID, Tokenizer, train_tokenizer
from dmedge.errors import DataError

CONTEXT = 16
WORDS = ["grinning face", "red heart", "улыбающееся лицо", "红心", "cœur rouge", "ﬁre engine", "ROTES HERZ"] * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(WORDS, path, 400)
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer(model, CONTEXT)


def test_same_text_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    train_tokenizer(iter(WORDS), tmp_path / "again.model", 400)
    assert (tmp_path / "again.model").read_bytes() == model.read_bytes()


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u200b"], ids=["empty", "space", "tab", "zero width"])
def test_nothing_becomes_the_unknown_token(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == [UNKNOWN_ID]


@pytest.mark.parametrize("text", ["x" * 100_000, "красный " * 12_500, "紅" * 100_000], ids=["run", "words", "bytes"])
def test_huge_text_is_cut(tokenizer: Tokenizer, text: str) -> None:
    assert len(tokenizer.encode(text)) == CONTEXT


def test_every_script_is_encoded_without_unknown_tokens(tokenizer: Tokenizer) -> None:
    pack = load_pack()
    for locale in pack.locales:
        ids = tokenizer.encode(next(filter(None, pack.names(locale))))
        assert UNKNOWN_ID not in ids, locale
        assert PAD_ID not in ids, locale
        assert max(ids) < tokenizer.vocab_size


def test_case_width_and_ligatures_do_not_matter(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("RED Heart") == tokenizer.encode("red heart")
    assert tokenizer.encode("ｒｅｄ heart") == tokenizer.encode("red heart")
    assert tokenizer.encode("ﬁre") == tokenizer.encode("fire")


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\x00", "😀", "\U0010ffff"])
def test_odd_characters_do_not_crash(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text)


def test_batch_pads_on_the_right(tokenizer: Tokenizer) -> None:
    texts = ["red heart", "", "grinning face grinning face"]
    ids, mask = tokenizer.batch(texts)
    assert ids.dtype == mask.dtype == np.int32
    assert ids.shape == mask.shape == (3, max(len(tokenizer.encode(text)) for text in texts))
    for row, text in enumerate(texts):
        assert ids[row][mask[row] == 1].tolist() == tokenizer.encode(text)
        assert (ids[row][mask[row] == 0] == PAD_ID).all()
        assert (np.diff(mask[row]) <= 0).all()


def test_empty_batch(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.batch([])
    assert ids.shape == mask.shape == (0, 0)


def test_pieces_and_ids_are_inverse(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("red heart")
    assert [tokenizer.piece_id(tokenizer.piece(token)) for token in ids] == ids
    assert "".join(tokenizer.piece(token) for token in ids) == "\u2581red\u2581heart"
    assert tokenizer.piece_id("no such piece") is None


def test_tokenizer_survives_pickling(tokenizer: Tokenizer) -> None:
    assert pickle.loads(pickle.dumps(tokenizer)).encode("red heart") == tokenizer.encode("red heart")


def test_vocabulary_shrinks_to_little_text(tmp_path: Path) -> None:
    train_tokenizer(["red heart"] * 5, tmp_path / "small.model", 1000)
    assert 256 < Tokenizer(tmp_path / "small.model", CONTEXT).vocab_size < 1000


def test_vocabulary_without_text_or_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no vocabulary of 400 tokens"):
        train_tokenizer([], tmp_path / "none.model", 400)
    with pytest.raises(DataError, match="change vocab_size"):
        train_tokenizer(["red heart"], tmp_path / "none.model", 100)
    assert not (tmp_path / "none.model").exists()


@pytest.mark.parametrize("content", [None, b"", b"no model"], ids=["missing", "empty", "text"])
def test_file_that_is_no_vocabulary_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="tokenizer.model: no SentencePiece model"):
        Tokenizer(path, CONTEXT)


def test_many_texts_give_what_each_gives_alone(tokenizer: Tokenizer) -> None:
    texts = ["red heart", "", "\ud800", "紅" * 50, "red heart", "улыбающееся лицо"]
    rows = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_all(texts) == rows
    assert [ids.tolist() for ids, _ in tokenizer.singles(texts)] == [[row] for row in rows]
    assert all(mask.shape == ids.shape and mask.all() for ids, mask in tokenizer.singles(texts))
    assert tokenizer.encode_all([]) == []
