"""The search page in Chromium finds what Python finds, in every script, by keys alone, and in pictures of the user."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.flow.gallery import folder_gallery
from dmedge.flow.index import IndexConfig, build_index
from dmedge.flow.open_index import open_index
from dmedge.runtime.encoder import Encoder
from tests.many_scripts import QUERIES
from tests.tiny_bundles import tiny_checkpoint
from tests.web_pages import READY_MS, Visit, bundle, chromium, index, plain, site, type_query, until, visit

__all__ = ["bundle", "chromium", "index", "plain", "site", "tiny_checkpoint", "visit"]  # fixtures

pytestmark = pytest.mark.slow

DROP = """async () => {
  const canvas = new OffscreenCanvas(20, 10);
  canvas.getContext("2d").fillRect(0, 0, 9, 9);
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([await canvas.convertToBlob()], "dropped.png", { type: "image/png" }));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
  }
}"""


@contextmanager
def sound(page: Any) -> Iterator[None]:
    """Nothing is thrown meanwhile."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield
    assert errors == []


@pytest.mark.parametrize("script", QUERIES)
def test_page_finds_what_python_finds(script: str, plain: Any, bundle: Artifact, index: Artifact) -> None:
    query = QUERIES[script]
    with Encoder(bundle) as encoder:
        scores = open_index(index).vectors.scores(encoder.texts([query]))[0]
    found = plain.evaluate("text => engine.ask('search', { text, top: 20, scope: 'all' })", query)["matches"]
    best = np.sort(scores)[::-1][:20]
    np.testing.assert_allclose([match["score"] for match in found], best, atol=1e-4)
    keys = [match["key"] for match in found]
    np.testing.assert_allclose([match["score"] for match in found], scores[keys], atol=1e-4)
    with sound(plain):
        assert type_query(plain, query)[:3] == [*map(str, keys[:3])]


BEST = """async ([codes, scales, queries, tops]) => {
  const { Rows, bestPlaces } = await import("./rows.mjs");
  const rows = new Rows(Int8Array.from(codes), Float32Array.from(scales), queries[0].length);
  return queries.map((numbers) => {
    const query = Float32Array.from(numbers);
    const scores = rows.scores(query);
    const found = tops.map((top) => rows.best(query, top));
    const want = tops.map((top) => bestPlaces(scores, top).map((place) => ({ place, score: scores[place] })));
    return { scores: [...scores], found, want };
  });
}"""


@pytest.mark.parametrize("kind", ["concepts", "concepts of either sign", "dense"])
def test_best_rows_are_those_of_the_whole_product(kind: str, plain: Any, rng: np.random.Generator) -> None:
    count, width = 300, 65
    rows, queries = rng.standard_normal((count, width)), rng.standard_normal((6, width)).astype(np.float32)
    if kind != "dense":  # few numbers make up nearly all of a row
        rows, queries = np.exp(3 * rows), np.exp(3 * queries)
    if kind == "concepts of either sign":
        rows, queries = (values * rng.choice([-1, 1], values.shape) for values in (rows, queries))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scales = (np.abs(rows).max(axis=1) / 127 / np.linalg.norm(rows, axis=1)).astype(np.float32)
    codes = np.rint(rows / np.linalg.norm(rows, axis=1, keepdims=True) / scales[:, None]).astype(np.int8)
    codes[40:60], scales[40:60] = codes[40], scales[40]  # equals: the earlier first
    tops = [0, 1, 7, 48, count - 1, count, count + 5]
    argument = [codes.ravel().tolist(), scales.tolist(), queries.tolist(), tops]
    for query, found in zip(queries, plain.evaluate(BEST, argument), strict=True):
        np.testing.assert_allclose(found["scores"], (codes @ query.astype(np.float64)) * scales, atol=1e-6)
        assert found["found"] == found["want"]
        assert [len(best) for best in found["found"]] == [min(top, count) for top in tops]


def test_golden_inputs_repeat_in_the_page(plain: Any) -> None:
    plain.click("#open-details")
    plain.click("#conform")
    plain.wait_for_selector("#conform-status:not(.quiet)", timeout=READY_MS)
    assert plain.inner_text("#conform-status") == "This device computes what was exported."
    names = plain.eval_on_selector_all("#conform-table td:first-child", "all => all.map((cell) => cell.textContent)")
    assert names == ["pixels", "token ids", "encode_image", "encode_text", "fuse", "scores"]
    plain.wait_for_selector("text=p50")
    plain.click("#copy")
    facts = json.loads(plain.evaluate("navigator.clipboard.readText()"))
    assert facts["conformance"]["conforms"] and len(facts["bundle"]["digest"]) == 64
    assert facts["measured_here"]["text"]["n"] == 40 and facts["measured_here"]["text"]["p50_ms"] > 0
    plain.keyboard.press("Escape")


def test_best_words_are_those_of_python(plain: Any, bundle: Artifact, index: Artifact) -> None:
    found = plain.evaluate("engine.ask('bestWords', { key: 17, language: 'de', top: 5 })")
    names = list(dict.fromkeys(name for name in load_pack().names("de") if name))
    with Encoder(bundle) as encoder:
        texts = encoder.texts(names)
    row = open_index(index).vectors.rows(np.array([17]))[0]
    np.testing.assert_allclose([word["score"] for word in found], np.sort(texts @ row)[::-1][:5], atol=0.01)
    similar = plain.evaluate("engine.ask('similar', { key: 17, top: 5 })")["matches"]
    assert 17 not in {match["key"] for match in similar} and len(similar) == 5


def test_licences_are_at_hand(plain: Any) -> None:
    plain.click("#open-licences")
    until(plain, "document.getElementById('licences-text').textContent.includes('Twemoji')")
    assert "Copyright (c) Microsoft Corporation" in plain.text_content("#licences-text")
    plain.keyboard.press("Escape")


def test_keys_alone_suffice(plain: Any) -> None:
    with sound(plain):
        type_query(plain, "green pear")
        plain.focus("#query")
        plain.keyboard.press("ArrowDown")
        plain.keyboard.press("ArrowRight")
        name = plain.evaluate("document.activeElement.querySelector('.caption').textContent")
        plain.keyboard.press("Enter")
        plain.wait_for_selector("#picture[open]")
        assert plain.inner_text("#picture-name") == name
        plain.wait_for_selector("#words button", timeout=READY_MS)
        plain.keyboard.press("Escape")
        plain.wait_for_selector("#picture:not([open])", state="attached")
        assert plain.evaluate("document.activeElement.querySelector('.caption').textContent") == name
        plain.keyboard.press("/")
        assert plain.evaluate("document.activeElement.id") == "query"
    nameless = "all => all.filter((one) => !(one.innerText || one.ariaLabel || one.textContent).trim()).length"
    assert plain.eval_on_selector_all("button", nameless) == 0


def test_languages_written_from_the_right_read_from_the_right(plain: Any) -> None:
    plain.select_option("#language", "ar")
    plain.wait_for_selector("#results[dir=rtl]")
    assert plain.inner_text("#results .caption >> nth=0").strip()
    places = plain.eval_on_selector_all("#results .tile", "all => all.map((tile) => tile.getBoundingClientRect().x)")
    assert places[0] > places[1]
    plain.focus("#query")
    plain.keyboard.press("ArrowDown")
    plain.keyboard.press("ArrowLeft")
    tiles = "[...document.querySelectorAll('#results .tile')]"
    assert plain.evaluate(f"{tiles}.indexOf(document.activeElement)") == 1
    plain.select_option("#language", "en")
    plain.wait_for_selector("#results[dir=ltr]")


def test_an_input_method_is_given_time(plain: Any) -> None:
    type_query(plain, "red")
    plain.fill("#query", "")
    until(plain, "location.hash === ''")
    plain.focus("#query")
    devtools = plain.context.new_cdp_session(plain)
    devtools.send("Input.imeSetComposition", {"text": "らーめん", "selectionStart": 4, "selectionEnd": 4})
    plain.keyboard.press("ArrowDown")  # belongs to the input method
    assert plain.evaluate("document.activeElement.id") == "query"
    devtools.send("Input.insertText", {"text": "ラーメン"})
    until(plain, "location.hash.includes(encodeURIComponent('ラーメン'))")
    assert plain.input_value("#query") == "ラーメン"


def test_own_pictures_are_found_and_stay(
    visit: Visit, tmp_path: Path, bundle: Artifact, rng: np.random.Generator
) -> None:
    picture = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((90, 60))
    picture.save(tmp_path / "mine.png")
    page = visit()
    page.set_input_files("#pick", [tmp_path / "mine.png"])
    page.wait_for_selector("#scope:not([hidden])", timeout=READY_MS)
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.set_input_files("#pick", [broken])
    page.wait_for_selector("text=broken.png: this browser cannot decode it")
    page.reload()
    page.wait_for_selector("body[data-ready=yes]", timeout=READY_MS)
    page.check("[name=scope][value=own]", force=True)
    until(page, "document.querySelectorAll('#results .tile').length === 1")
    assert page.inner_text("#results .caption") == "mine.png"
    type_query(page, "red apple")
    score = float(re.search(r"\(([-\d.]+)\)", page.get_attribute("#results .tile", "title"))[1])  # type: ignore[index]
    with Encoder(bundle) as encoder:
        want = (encoder.texts(["red apple"]) @ encoder.images([picture]).T).item()
    assert score == pytest.approx(want, abs=2e-3)
    page.evaluate(DROP)
    page.wait_for_selector("text=dropped.png", timeout=READY_MS)
    for left in (1, 0):
        page.click("#results .tile")
        page.click("#remove")
        until(page, f"document.querySelectorAll('#results .tile').length === {left or 48}")
    page.wait_for_selector("#scope", state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(scheme: str, visit: Visit) -> None:
    page = visit(viewport={"width": 360, "height": 720}, color_scheme=scheme, has_touch=True, is_mobile=True)
    type_query(page, "red apple")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.tap("#results .tile >> nth=1")
    page.wait_for_selector("#similar .tile")
    assert page.evaluate("document.querySelector('#picture .body').scrollWidth") <= 360
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        assert (np.asarray(shot.convert("L")).mean() > 128) == (scheme == "light")


def test_photographs_are_searched_too(visit: Visit, bundle: Artifact, tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((80, 60)).save(
            tmp_path / f"photos/{i}.jpg"
        )
    index = build_index(
        bundle, folder_gallery(tmp_path / "photos"), IndexConfig(dim=9, min_recall=0), tmp_path / "index"
    )
    out = tmp_path / "site"
    done = CliRunner().invoke(cli, ["app", "web", str(bundle.root), "--index", str(index.root), "--out", str(out)])
    assert done.exit_code == 0 and done.stdout.strip() == str(out), done.output
    page = visit(out)
    with Encoder(bundle) as encoder:
        best, scores = open_index(index).best(encoder.texts(["red apple"])[0], 1)
    assert type_query(page, "red apple")[0] == str(best[0])
    assert f"({scores[0]:.2f}" in page.get_attribute("#results .tile", "title")
