"""Perturbations: nothing but the seed decides, shapes and letters survive, and stronger is farther."""

import unicodedata
from difflib import SequenceMatcher

import numpy as np
import pytest

from dmedge.evidence.perturb_images import GREY, IMAGE_PERTURBATIONS, Pixels
from dmedge.evidence.perturb_texts import TEXT_PERTURBATIONS, neighbours, split_cells, switch_code
from dmedge.evidence.strengths import STRENGTHS

TEXTS = {
    "de": "Känguru mit Fußball und Hut",
    "vi": "mặt cười với đôi mắt mở to",
    "el": "χαμογελαστό πρόσωπο με μάτια",
    "ru": "ёж и чай на столе",
    "ar": "وجه مبتسم بعيون كبيرة",
    "hi": "मुस्कुराता हुआ चेहरा और आँखें",
    "th": "หน้ายิ้มตาโต",
    "ko": "활짝 웃는 얼굴",
    "ja": "大きな目の笑顔",
    "zh": "猫",
    "am": "ፈገግታ ያለው ፊት",
    "en": "e\u0301clair",
}
SHAPES = ((32, 32, 3), (48, 40, 3), (64, 64, 3))


def picture(shape: tuple[int, ...], seed: int = 0) -> Pixels:
    """A few flat rectangles on white, as icons are."""
    rng = np.random.default_rng(seed)
    pixels = np.full(shape, 255, np.uint8)
    for _ in range(6):
        top, left = (int(rng.integers(0, side * 2 // 3)) for side in shape[:2])
        pixels[top : top + shape[0] // 3, left : left + shape[1] // 3] = rng.integers(0, 256, 3)
    return pixels


def distance(text: str, other: str) -> float:
    return 1 - SequenceMatcher(None, text, other, autojunk=False).ratio()


@pytest.mark.parametrize("name", IMAGE_PERTURBATIONS)
def test_pictures_keep_their_shape_and_stronger_is_farther(name: str) -> None:
    perturb = IMAGE_PERTURBATIONS[name]
    far = np.zeros((len(STRENGTHS), 24))
    for seed in range(far.shape[1]):
        pixels = picture(SHAPES[seed % len(SHAPES)], seed)
        before = pixels.copy()
        for i, strength in enumerate(STRENGTHS):
            found, again = (perturb(pixels, strength, np.random.default_rng(seed)) for _ in range(2))
            assert (found.shape, found.dtype.name) == (pixels.shape, "uint8")
            np.testing.assert_array_equal(found, again)
            far[i, seed] = np.abs(found.astype(int) - pixels).mean()
        np.testing.assert_array_equal(pixels, before)
    assert far[0].mean() > 0
    assert (np.diff(far.mean(1)) > 0).all(), far.mean(1)


def test_a_plain_picture_only_shows_what_is_added_to_it() -> None:
    white = np.full((48, 48, 3), 255, np.uint8)
    for name in ("blur", "jpeg", "rotation"):
        np.testing.assert_array_equal(IMAGE_PERTURBATIONS[name](white, 5, np.random.default_rng(0)), white)
    covered = IMAGE_PERTURBATIONS["occlusion"](white, 5, np.random.default_rng(0))
    assert (covered == GREY).mean() == pytest.approx(0.30, abs=0.02)


@pytest.mark.parametrize("name", TEXT_PERTURBATIONS)
def test_texts_stay_texts_and_stronger_is_farther(name: str) -> None:
    perturb = TEXT_PERTURBATIONS[name]
    far = np.zeros((len(STRENGTHS), 3))
    for seed in range(far.shape[1]):
        for i, strength in enumerate(STRENGTHS):
            for language, text in TEXTS.items():
                found, again = (perturb(text, language, strength, np.random.default_rng(seed)) for _ in range(2))
                assert found == again
                assert found.strip()
                assert found.encode("utf-8").decode("utf-8") == found  # lone surrogates have no UTF-8
                assert not unicodedata.category(found[0]).startswith("M")
                far[i, seed] += distance(text, found)
    assert far[0].mean() > 0
    assert (np.diff(far.mean(1)) >= 0).all(), far.mean(1)
    assert far[-1].mean() > far[0].mean()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_cells_are_the_text_cut_before_letters(text: str) -> None:
    cells = split_cells(text)
    assert "".join(cells) == text
    assert not any(unicodedata.category(cell[0]).startswith("M") for cell in cells)


def test_a_letter_is_replaced_by_one_of_its_script_and_case() -> None:
    assert set(neighbours("k")) == set("abcdefghijlmnopqrstuvwxyz")
    assert set("абвгдежз") & set(neighbours("к"))
    assert not neighbours("猫")
    for letter in "éжΩбकก가あא":
        names = {unicodedata.name(other).split()[0] for other in neighbours(letter)}
        assert names == {unicodedata.name(letter).split()[0]}


@pytest.mark.parametrize(
    ("name", "language", "text", "expected"),
    [
        ("case", "en", "red Hat", "RED HAT"),
        ("case", "en", "USB", "usb"),
        ("case", "tr", "iyi kız", "İYİ KIZ"),
        ("case", "tr", "ISI", "ısı"),
        ("case", "th", "หน้ายิ้ม", "หน้ายิ้ม"),
        ("diacritics", "vi", "đôi mắt", "doi mat"),
        ("diacritics", "el", "πρόσωπο", "προσωπο"),
        ("diacritics", "ru", "чёрный", "черныи"),
        ("diacritics", "hi", "आँखें", "आँखें"),
        ("diacritics", "en", "plain", "plain"),
        ("short", "en", "cat", "ca"),
        ("typos", "zh", "猫", "猫"),
    ],
)
def test_the_greatest_strength_does_all_that_can_be_done(name: str, language: str, text: str, expected: str) -> None:
    assert TEXT_PERTURBATIONS[name](text, language, 5, np.random.default_rng(0)) == expected


def test_a_long_text_says_nothing_new() -> None:
    long = TEXT_PERTURBATIONS["long"]("a red hat", "en", 5, np.random.default_rng(0))
    assert long.startswith("a red hat ")
    assert (len(long.split()), set(long.split())) == (96, {"a", "red", "hat"})


def test_words_of_two_languages_mix_in_the_share_that_was_asked_for() -> None:
    text, other = "one two three four five", "eins zwei drei vier fünf"
    shares = []
    for strength in STRENGTHS:
        found = [switch_code(text, {text: other}.get, strength, np.random.default_rng(seed)) for seed in range(200)]
        assert {len(mixed.split()) for mixed in found} == {5}
        for mixed in found:
            assert all(
                word in pair
                for word, pair in zip(mixed.split(), zip(text.split(), other.split(), strict=True), strict=True)
            )
        shares.append(np.mean([len(set(mixed.split()) & set(other.split())) / 5 for mixed in found]))
    assert shares == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8], abs=0.05)


def test_without_another_language_nothing_is_switched() -> None:
    assert switch_code("red hat", lambda text: None, 5, np.random.default_rng(0)) == "red hat"


@pytest.mark.parametrize("strength", [0, 6])
def test_there_are_five_strengths(strength: int) -> None:
    with pytest.raises(ValueError, match="expected one of 1, 2, 3, 4, 5"):
        IMAGE_PERTURBATIONS["noise"](picture(SHAPES[0]), strength, np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"strength {strength}"):
        TEXT_PERTURBATIONS["typos"]("red hat", "en", strength, np.random.default_rng(0))
