"""The loader of a web bundle tokenizes as sentencepiece does and resizes as Pillow does, to the last bit."""

import base64
import json
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dmedge.export
from dmedge.artifact import SHIPPED
from dmedge.data.emoji import load_pack
from dmedge.data.tokenizer import Tokenizer
from dmedge.data.transforms import RESAMPLES, Preprocess
from dmedge.devices.browser import BrowserPage
from dmedge.devices.loopback import LoopbackServer
from tests.nasty_texts import NASTY, nasty_texts

pytestmark = pytest.mark.slow

CHUNK = 50_000  # texts in one message
CONTEXT = 64
TOKENIZE = """async ([request, contextLength]) => {
  if (!globalThis.tokenizer) {
    const { Tokenizer } = await import("/loader/tokenizer.mjs");
    const model = await (await fetch("/model/tokenizer.model")).arrayBuffer();
    globalThis.tokenizer = new Tokenizer(model, contextLength);
  }
  return JSON.stringify(JSON.parse(request).map((text) => tokenizer.encode(text)));
}"""
PREPROCESS = """async (cases) => {
  const { preprocess } = await import("/loader/pixels.mjs");
  const bytes = (content) => Uint8ClampedArray.from(atob(content), (character) => character.charCodeAt(0));
  return cases.map(({ width, height, data, config }) =>
    btoa(String.fromCharCode(...preprocess({ width, height, data: bytes(data) }, config))));
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserPage]:
    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text('<!doctype html><meta charset="utf-8">', encoding="utf-8")
    loader = Path(dmedge.export.__file__).parent / "web"
    server = LoopbackServer({"/": site, "/loader/": loader, "/model/": SHIPPED / "emoji"})
    browser = BrowserPage(f"{server.url}/index.html")
    yield browser
    browser.close()
    server.close()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(SHIPPED / "emoji/tokenizer.model", CONTEXT)


def assert_same_ids(page: BrowserPage, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    assert texts
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        found = json.loads(page.ask(TOKENIZE, [json.dumps(chunk), CONTEXT]))
        wanted = tokenizer.encode_all(chunk)
        differing = [text for text, ids, want in zip(chunk, found, wanted, strict=True) if ids != want]
        assert not differing, [ascii(text) for text in differing[:10]]


def test_every_name_in_100_locales_has_the_same_tokens(page: BrowserPage, tokenizer: Tokenizer) -> None:
    pack = load_pack()
    assert len(pack.locales) == 100
    names = sorted({name for locale in pack.locales for name in pack.names(locale) if name is not None})
    assert len(names) > 150_000
    assert_same_ids(page, tokenizer, names)


def test_every_assigned_character_has_the_same_tokens(page: BrowserPage, tokenizer: Tokenizer) -> None:
    characters = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in ("Cs", "Co", "Cn")]
    assert len(characters) > 100_000
    assert_same_ids(page, tokenizer, [f"a{character}B" for character in characters])


@pytest.mark.parametrize("kind", [*NASTY, "all"])
def test_nasty_text_has_the_same_tokens(kind: str, page: BrowserPage, tokenizer: Tokenizer) -> None:
    assert_same_ids(page, tokenizer, ["", " ", *nasty_texts(kind, 4000), "red apple " * 200])


def test_a_lone_surrogate_has_the_same_tokens(page: BrowserPage, tokenizer: Tokenizer) -> None:
    assert_same_ids(page, tokenizer, ["a\ud83db", "\udf4e", "\udf4e\ud83d", "x\ud83d"])


SHAPES = [(1, 1), (2, 3), (7, 5), (48, 48), (49, 48), (90, 40), (40, 90), (100, 201), (96, 24), (1, 120), (120, 1)]


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("kind", ["noise", "black and white", "see-through"])
def test_every_pixel_is_that_of_pillow(kind: str, resample: str, page: BrowserPage, rng: np.random.Generator) -> None:
    fits: list[dict[str, object]] = [
        {"fit": "pad-centre"},
        {"fit": "squash", "background": (10, 200, 77)},
        {"fit": "crop-centre", "shortest_edge": 48},
        {"fit": "crop-centre", "shortest_edge": 28},
    ]
    cases, wanted = [], []
    for width, height in SHAPES:
        rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        if kind == "black and white":  # overshoots most
            rgba[...] = np.where(rgba > 127, 255, 0)
        if kind != "see-through":
            rgba[..., 3] = 255
        for fit in fits:
            preprocess = Preprocess.from_json({**Preprocess(33).to_json(), **fit, "resample": resample})
            data = base64.b64encode(rgba.tobytes()).decode()
            cases.append({"width": width, "height": height, "data": data, "config": preprocess.to_json()})
            wanted.append(preprocess(Image.fromarray(rgba)))
    for case, found, want in zip(cases, page.ask(PREPROCESS, cases), wanted, strict=True):
        assert base64.b64decode(found) == want.tobytes(), (case["width"], case["height"], case["config"])
