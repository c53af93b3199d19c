"""The pack: complete, decodable, small, attributed."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dmedge.data.emoji import PACK, TEST_STYLE, TRAIN_STYLES, VALIDATION_STYLE, load_pack
from dmedge.data.languages import LANGUAGES, OTHER_LANGUAGES, base_language, language_name, script_of
from dmedge.errors import DataError

PACK_LIMIT_BYTES = 14_000_000
MIN_COVERAGE = 0.98
TOOLS = Path(__file__).parents[1] / "tools/emoji_pack"


def test_pack_stays_within_its_size() -> None:
    assert sum(path.stat().st_size for path in PACK.rglob("*") if path.is_file()) <= PACK_LIMIT_BYTES


def test_every_emoji_is_spelt_by_its_hexcode_and_grouped() -> None:
    pack = load_pack()
    assert len(pack.emoji) == len({emoji.hexcode for emoji in pack.emoji}) == 1914
    for emoji in pack.emoji:
        assert "-".join(f"{ord(char):04X}" for char in emoji.char) == emoji.hexcode
        assert 0 <= emoji.group < len(pack.groups)
        assert 0 <= emoji.subgroup < len(pack.subgroups)
    assert {emoji.group for emoji in pack.emoji} == set(range(len(pack.groups)))
    assert {emoji.subgroup for emoji in pack.emoji} == set(range(len(pack.subgroups)))


def test_styles_are_split_without_overlap() -> None:
    assert VALIDATION_STYLE not in TRAIN_STYLES
    assert TEST_STYLE not in TRAIN_STYLES
    assert sorted(load_pack().styles) == sorted({*TRAIN_STYLES, VALIDATION_STYLE, TEST_STYLE})


@pytest.mark.parametrize("style", load_pack().styles)
def test_every_tile_decodes_to_a_picture_where_the_style_has_one(style: str) -> None:
    pack = load_pack()
    images, present = pack.images(style)
    assert images.shape == (1914, pack.tile, pack.tile, 3)
    assert images.dtype == np.uint8
    assert (images[~present] == 255).all()
    contrast = images[present].astype(np.int16).reshape(int(present.sum()), -1)
    assert (np.ptp(contrast, axis=1) > 8).all()  # the palest picture, a white square, still shows its edge
    recorded = pack.style_table[style]
    assert hashlib.sha256(recorded.atlas.read_bytes()).hexdigest() == recorded.sha256


def test_tiles_are_shared_and_read_only() -> None:
    images, present = load_pack().images(TEST_STYLE)
    assert not images.flags.writeable
    assert not present.flags.writeable
    assert load_pack().images(TEST_STYLE)[0] is images


def test_test_style_draws_every_emoji() -> None:
    assert load_pack().images(TEST_STYLE)[1].all()


def test_same_emoji_looks_alike_across_related_styles() -> None:
    """A shifted atlas or a wrong match would put unrelated pictures side by side."""
    pack = load_pack()
    (flat, in_flat), (gradient, in_gradient) = pack.images("fluent-flat"), pack.images("fluent")
    both = np.flatnonzero(in_flat & in_gradient)
    a, b = (images[both].astype(np.float32).reshape(len(both), -1) / 255 for images in (flat, gradient))
    own = ((a - b) ** 2).mean(axis=1)
    other = ((a - np.roll(b, 1, axis=0)) ** 2).mean(axis=1)
    assert (own < other).mean() > 0.98


def test_every_locale_names_nearly_every_emoji() -> None:
    pack = load_pack()
    for locale in pack.locales:
        names, keywords = pack.names(locale), pack.keywords(locale)
        assert len(names) == len(keywords) == len(pack.emoji)
        assert sum(name is not None for name in names) >= MIN_COVERAGE * len(names), locale
        for name, words in zip(names, keywords, strict=True):
            assert name is None or name.strip()
            assert name not in words
            assert len(set(words)) == len(words)


def test_hundred_locales_are_ninety_six_languages() -> None:
    locales = load_pack().locales
    assert set(locales) == set(LANGUAGES)
    assert not set(LANGUAGES) & set(OTHER_LANGUAGES)
    assert (len(locales), len({base_language(tag) for tag in locales})) == (100, 96)


def test_english_names_are_the_names_of_the_emoji() -> None:
    pack = load_pack()
    assert pack.names("en") == tuple(emoji.name for emoji in pack.emoji)


@pytest.mark.parametrize(
    ("tag", "name", "script"),
    [
        ("de", "German", "Latn"),
        ("sr-Latn", "Serbian (Latin)", "Latn"),
        ("pt-BR", "Portuguese (BR)", "Latn"),
        ("uz-Cyrl", "Uzbek (Cyrl)", "Cyrl"),
        ("es-419", "Spanish (419)", "Latn"),
        ("da", "Danish", "Latn"),
    ],
)
def test_language_tags_have_names_and_scripts(tag: str, name: str, script: str) -> None:
    assert (language_name(tag), script_of(tag)) == (name, script)


@pytest.mark.parametrize("tag", ["", "xx", "english", "de_DE", "de-", "-de", "zh-hant"])
def test_unknown_language_is_refused(tag: str) -> None:
    with pytest.raises(DataError, match="unknown language"):
        language_name(tag)


def test_near_language_is_suggested() -> None:
    with pytest.raises(DataError, match="did you mean 'zh-Hant'"):
        language_name("zh-hant")


def test_unknown_style_and_locale_name_the_nearest() -> None:
    with pytest.raises(DataError, match="unknown style 'twemojy'; did you mean 'twemoji'"):
        load_pack().images("twemojy")
    with pytest.raises(DataError, match="unknown locale 'sr-Lat'; did you mean 'sr-Latn'"):
        load_pack().names("sr-Lat")


@pytest.mark.skipif(not TOOLS.is_dir(), reason="the build script is not part of an installed package")
def test_pack_was_built_from_the_packages_that_the_script_pins() -> None:
    spec = importlib.util.spec_from_file_location("emoji_pack_sources", TOOLS / "sources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    pinned = {(source.package, source.version, source.integrity) for source in module.SOURCES}
    assert {(s["package"], s["version"], s["integrity"]) for s in load_pack().sources} == pinned


@pytest.mark.skipif(not TOOLS.is_dir(), reason="the build script is not part of an installed package")
def test_every_hand_made_match_is_in_the_pack() -> None:
    pack = load_pack()
    _, present = pack.images(VALIDATION_STYLE)
    drawn = {emoji.char.replace("\ufe0f", "") for emoji, is_drawn in zip(pack.emoji, present, strict=True) if is_drawn}
    table = json.loads((TOOLS / "fxemoji_aliases.json").read_text("utf-8"))
    aliases = {char.replace("\ufe0f", "") for char in table["aliases"].values()}
    assert aliases <= drawn
    assert len(aliases) == len(table["aliases"])  # no two icons claim one emoji


def test_every_source_is_pinned_attributed_and_licensed() -> None:
    attribution = (PACK / "ATTRIBUTION.md").read_text("utf-8")
    sources = json.loads((PACK / "index.json").read_text("utf-8"))["sources"]
    for source in sources:
        assert f"{source['package']} {source['version']}" in attribution
        assert source["integrity"].startswith("sha512-")
        assert source["licence"] in {"Unicode-3.0", "MIT", "Apache-2.0", "CC-BY-4.0"}
        assert any(path.name.startswith(source["licence"]) for path in (PACK / "licenses").iterdir())
    for path in (PACK / "licenses").iterdir():
        assert f"licenses/{path.name}" in attribution
    assert not {"openmoji", "emojione"} & {word for source in sources for word in source["package"].split("/")}
