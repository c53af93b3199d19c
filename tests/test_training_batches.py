"""Text noise and subword splits."""

import subprocess
import sys

import numpy as np
import pytest

from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.training.augment import noisy_text
from dmedge.training.batches import split_tokens

TEXTS = ["red heart", "grinning face", "красное сердце", "कुत्ता", "犬の顔", "dog face", "cat face"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    train_tokenizer(TEXTS, path, 400)
    return Tokenizer(path, 24)


def test_a_split_keeps_the_text_and_varies(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    ids = tokenizer.encode("grinning face")
    splits = [split_tokens(ids, tokenizer, rng) for _ in range(50)]
    texts = {"".join(tokenizer.piece(token) for token in split) for split in splits}
    assert texts == {"".join(tokenizer.piece(token) for token in ids)}
    assert len({tuple(split) for split in splits}) > 1


def test_a_split_stays_within_the_context(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("grinning face " * 20)
    assert len(split_tokens(ids, tokenizer, np.random.default_rng(0))) <= tokenizer.context_length


def test_splits_and_noise_are_the_same_in_another_process(tokenizer: Tokenizer) -> None:
    program = (
        "import sys, numpy as np\n"
        "from dmedge.data.tokenizer import Tokenizer\n"
        "from dmedge.training.augment import noisy_text\n"
        "from dmedge.training.batches import split_tokens\n"
        "tokenizer, rng = Tokenizer(sys.argv[1], 24), np.random.default_rng(5)\n"
        "print([split_tokens(tokenizer.encode(noisy_text('grinning face', rng)), tokenizer, rng) for _ in range(20)])"
    )
    rng = np.random.default_rng(5)
    here = [split_tokens(tokenizer.encode(noisy_text("grinning face", rng)), tokenizer, rng) for _ in range(20)]
    there = subprocess.run(
        [sys.executable, "-c", program, str(tokenizer.model_path)], capture_output=True, check=True, text=True
    )
    assert there.stdout.strip() == str(here)


@pytest.mark.parametrize("text", ["a", "ab", "abc", "grinning face", "犬の顔"])
def test_noise_never_empties_a_text(text: str) -> None:
    rng = np.random.default_rng(0)
    assert all(noisy_text(text, rng) for _ in range(200))
