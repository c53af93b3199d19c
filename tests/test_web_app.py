"""The search page in Chromium finds what Python finds, in every script, offline; of a changed site it loads nothing."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.devices.browser import find_chromium
from dmedge.devices.loopback import LoopbackServer
from dmedge.devices.npm import ONNXRUNTIME_WEB, ONNXRUNTIME_WEBGPU
from dmedge.errors import ArtifactError, DmedgeError
from dmedge.flow.gallery import emoji_gallery, folder_gallery
from dmedge.flow.index import IndexConfig, build_index
from dmedge.flow.open_index import open_index
from dmedge.flow.web_app import PAGE, build_site, can_use_webgpu
from dmedge.runtime.encoder import Encoder
from tests.conftest import MakeArtifact
from tests.tiny_bundles import bundle_once, tiny_checkpoint

__all__ = ["tiny_checkpoint"]  # fixtures

READY_MS = 60_000
QUERIES = {  # script -> query
    "Latin": "red apple",
    "Cyrillic": "красное яблоко",
    "Greek": "κόκκινο μήλο",
    "Arabic": "تفاحة حمراء",
    "Hebrew": "תפוח אדום",
    "Devanagari": "लाल सेब",
    "Thai": "แอปเปิ้ลแดง",
    "Han": "紅蘋果",
    "Kana": "ラーメン",
    "Hangul": "빨간 사과",
    "Ethiopic": "ቀይ ፖም",
}


DROP = """async () => {
  const canvas = new OffscreenCanvas(20, 10);
  canvas.getContext("2d").fillRect(0, 0, 9, 9);
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([await canvas.convertToBlob()], "dropped.png", { type: "image/png" }));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
  }
}"""


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return bundle_once(tmp_path_factory, tiny_checkpoint, "web")


@pytest.fixture(scope="module")
def index(bundle: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("app") / "index"
    return build_index(bundle, emoji_gallery("twemoji"), IndexConfig(min_recall=0), out)


@pytest.fixture(scope="module")
def site(bundle: Artifact, index: Artifact) -> Path:
    return build_site(bundle, index.sibling("site"), index=index)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests, each with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium())
        yield browser
        browser.close()


Visit = Callable[..., Any]


@pytest.fixture
def visit(chromium: Any, site: Path) -> Iterator[Visit]:
    """Opens the site: `visit()`, or another folder; without `worker` nothing is kept for offline use."""
    opened: list[Any] = []
    servers: list[LoopbackServer] = []

    def open_page(
        folder: Path = site, *, is_isolated: bool = True, worker: bool = False, is_broken: bool = False, **options: Any
    ) -> Any:
        server = LoopbackServer({"/": folder}, is_isolated=is_isolated)
        servers.append(server)
        context = chromium.new_context(service_workers="allow" if worker else "block", **options)
        opened.append(context)
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("body[data-ready]", timeout=READY_MS)
        page.server = server
        assert is_broken or page.inner_text("#failure-text") == ""
        return page

    yield open_page
    for context in opened:
        for page in context.pages:
            assert getattr(page, "errors", []) == []
        context.close()
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def plain(chromium: Any, site: Path) -> Iterator[Any]:
    """One page for the tests that leave nothing behind."""
    server = LoopbackServer({"/": site})
    context = chromium.new_context(service_workers="block", permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("body[data-ready=yes]", timeout=READY_MS)
    page.evaluate(
        "async () => { const { Engine } = await import('./rpc.mjs'); window.engine = new Engine(); "
        "await engine.ask('load'); }"
    )
    yield page
    context.close()
    server.close()


def until(page: Any, expression: str, argument: object = None) -> None:
    """Wait until something holds in the page, whose policy lets nothing evaluate strings from inside."""
    for _ in range(READY_MS // 50):
        if page.evaluate(expression, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def type_query(page: Any, text: str) -> list[str]:
    """Keys of what is shown for a text."""
    page.fill("#query", text)
    until(page, "(text) => location.hash.includes(`${new URLSearchParams({ q: text })}&`)", text)
    keys: list[str] = page.eval_on_selector_all("#results .tile", "tiles => tiles.map(({ dataset }) => dataset.key)")
    return keys


@contextmanager
def sound(page: Any) -> Iterator[None]:
    """Nothing is thrown meanwhile."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield
    assert errors == []


def test_site_names_every_file(site: Path, bundle: Artifact, index: Artifact) -> None:
    table = json.loads((site / "site.json").read_text("utf-8"))
    assert table["bundle"]["digest"] == bundle.digest and table["bundle"]["verdict"] == "not verified"
    assert table["index"]["digest"] == index.digest
    found = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert found - set(table["files"]) == {"site.json", "version.js", "sw.js", "_headers"}
    assert len(table["languages"]) == 100
    assert {row["tag"] for row in table["languages"] if row["direction"] == "rtl"} >= {"ar", "fa", "he", "ur"}


def test_only_float_programs_bring_the_runtime_for_gpus(site: Path, bundle: Artifact) -> None:
    assert json.loads((site / "site.json").read_text("utf-8"))["webgpu"] is True
    names = {Path(name).name for package in (ONNXRUNTIME_WEB, ONNXRUNTIME_WEBGPU) for name in package.files}
    assert {path.name for path in (site / "ort").iterdir()} == names
    for precision in ("int8", "int8, and linear layers in int4"):
        manifest = replace(bundle.manifest, summary={**bundle.manifest.summary, "precision": precision})
        assert not can_use_webgpu(manifest)


def test_every_module_of_the_page_is_in_the_site(site: Path) -> None:
    for path in [path for path in PAGE.glob("*.mjs") if path.name != "README.md"]:
        for name in re.findall(r"from \"\./(.+?)\";", path.read_text("utf-8")):
            assert (site / name).is_file(), (path.name, name)
    page = (site / "index.html").read_text("utf-8")
    for name in re.findall(r"(?:href|src)=\"\./(.+?)\"", page):
        assert (site / name).is_file(), name


def test_unfit_bundles_and_indexes_are_refused(
    bundle: Artifact, index: Artifact, tmp_path: Path, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(ArtifactError, match="expected one for browsers; run dmedge export --target web"):
        build_site(make_artifact("other", kind="bundle"), tmp_path / "site")
    other = make_artifact("stranger", kind="bundle", files={"dmedge.mjs": b""})
    with pytest.raises(ArtifactError, match="scores of another encoder mean nothing"):
        build_site(other, tmp_path / "site", index=index)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ArtifactError, match="taken: exists already"):
        build_site(bundle, tmp_path / "taken", index=index)
    assert {path.name for path in tmp_path.iterdir()} == {"other", "stranger", "taken"}


def test_command_serves_the_site_with_the_headers_of_threads(bundle: Artifact, index: Artifact) -> None:
    command = ["-m", "dmedge", "app", "web", str(bundle.root), "--index", str(index.root), "--serve", "--port", "0"]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[0]
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert b"<title>Picture search" in answer.read()
        server.terminate()


def test_taken_port_is_named(site: Path) -> None:
    server = LoopbackServer({"/": site})
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(DmedgeError, match=f"port {port}: .*; choose another --port"):
        LoopbackServer({"/": site}, port=port)
    server.close()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_best_words_are_those_of_python(plain: Any, bundle: Artifact, index: Artifact) -> None:
    found = plain.evaluate("engine.ask('bestWords', { key: 17, language: 'de', top: 5 })")
    names = list(dict.fromkeys(name for name in load_pack().names("de") if name))
    with Encoder(bundle) as encoder:
        texts = encoder.texts(names)
    row = open_index(index).vectors.rows(np.array([17]))[0]
    np.testing.assert_allclose([word["score"] for word in found], np.sort(texts @ row)[::-1][:5], atol=0.01)
    similar = plain.evaluate("engine.ask('similar', { key: 17, top: 5 })")["matches"]
    assert 17 not in {match["key"] for match in similar} and len(similar) == 5


@pytest.mark.slow
def test_licences_are_at_hand(plain: Any) -> None:
    plain.click("#open-licences")
    until(plain, "document.getElementById('licences-text').textContent.includes('Twemoji')")
    assert "Copyright (c) Microsoft Corporation" in plain.text_content("#licences-text")
    plain.keyboard.press("Escape")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_site_can_be_installed_and_works_offline(visit: Visit, site: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(site, tmp_path / "site")
    page = visit(folder, worker=True, is_isolated=False)
    assert page.evaluate("crossOriginIsolated") is False
    page.wait_for_selector("text=Ready for offline use.", timeout=READY_MS)
    devtools = page.context.new_cdp_session(page)
    errors = devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert {error["errorId"] for error in errors} <= {"in-incognito"}  # as the profiles of tests are
    online = type_query(page, "red apple")
    page.server.close()
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("body[data-ready=yes]", timeout=READY_MS)
    assert type_query(page, "red apple") == online
    assert page.evaluate("crossOriginIsolated") is True  # by the headers that the service worker adds


@pytest.mark.slow
def test_a_new_version_is_offered_and_taken(visit: Visit, site: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(site, tmp_path / "site")
    page = visit(folder, worker=True)
    page.wait_for_selector("text=Ready for offline use.", timeout=READY_MS)
    version = (folder / "version.js").read_text("utf-8")
    table = json.loads(version.removeprefix("self.SITE = ").rstrip(";\n"))
    old = json.loads((folder / "site.json").read_text("utf-8"))["files"]["app.css"]["sha256"]
    css = (folder / "app.css").read_bytes() + b"/* newer */"
    new = hashlib.sha256(css).hexdigest()
    (folder / "app.css").write_bytes(css)
    content = (folder / "site.json").read_text("utf-8").replace(old, new)
    (folder / "site.json").write_text(content, "utf-8")
    table["files"] |= {"app.css": new, "site.json": hashlib.sha256(content.encode()).hexdigest()}
    (folder / "version.js").write_text(f"self.SITE = {json.dumps(table | {'version': 'newer'})};\n", "utf-8")
    page.reload()
    page.wait_for_selector("text=A new version is here.", timeout=READY_MS)
    page.click(".toast button")
    page.wait_for_timeout(500)
    page.wait_for_selector("body[data-ready=yes]", timeout=READY_MS)
    until(page, "caches.keys().then((names) => names.length === 1 && names[0].endsWith(' newer'))")


TAMPERED = {
    "program": ("bundle/programs/encode_text.onnx", "bundle/programs/encode_text.onnx: sha256"),
    "loader": ("bundle/tokenizer.mjs", "bundle/tokenizer.mjs: sha256"),
    "conformance": ("bundle/conformance/cases.json", "bundle/conformance/cases.json: sha256"),
    "manifest": ("bundle/manifest.json", "bundle/manifest.json: its digest is"),
    "index": ("index/vectors.npy", "index/vectors.npy: sha256"),
    "runtime": ("ort/ort-wasm-simd-threaded.wasm", "ort/ort-wasm-simd-threaded.wasm: sha256"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", TAMPERED)
def test_nothing_of_a_changed_site_is_loaded(case: str, visit: Visit, site: Path, tmp_path: Path) -> None:
    name, message = TAMPERED[case]
    folder = shutil.copytree(site, tmp_path / "site")
    content = (folder / name).read_bytes()
    at = content.index(b"context_length") + 17 if case == "manifest" else len(content) // 2
    (folder / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    page = visit(folder, is_broken=True)
    assert page.inner_text("#failure-text").startswith(message)
    assert page.is_disabled("#query") and page.locator(".tile").count() == 0


@pytest.mark.slow
def test_page_without_isolation_runs_on_one_thread(visit: Visit) -> None:
    page = visit(is_isolated=False)
    assert page.evaluate("crossOriginIsolated") is False
    assert len(type_query(page, "red apple")) == 48
    page.click("#open-details")
    assert "page is not isolated, so 1" in page.inner_text("#facts-device")


CHOOSE = """async ([canUseGpu, wish]) => {
  const { chooseProvider } = await import("./runtime.mjs");
  return chooseProvider({ canUseGpu, precision: "int8", gpu: navigator.gpu, wish });
}"""


@pytest.mark.slow
def test_without_a_gpu_webassembly_computes(plain: Any) -> None:
    assert plain.evaluate("navigator.gpu.requestAdapter()") is None  # as in every browser without a GPU
    for can_use, wish, why in (
        (False, "webgpu", "no kernels for the operators of int8 programs"),
        (True, "wasm", "the address asks for it"),
        (True, "webgpu", "gives no GPU"),
        (True, None, "gives no GPU"),
    ):
        found = plain.evaluate(CHOOSE, [can_use, wish])
        assert found["provider"] == "wasm" and why in found["why"]
    plain.click("#open-details")
    until(
        plain, "document.getElementById('facts-device').textContent.includes('WebAssembly: this browser gives no GPU')"
    )
    plain.keyboard.press("Escape")


@pytest.mark.slow
def test_a_gpu_that_fails_is_left_with_a_note(plain: Any) -> None:
    page = plain.context.new_page()
    page.goto(plain.url.partition("#")[0] + "app.css")  # has no policy of its own, as a worker has none
    found = page.evaluate(
        """async () => {
          const base = new URL("./", document.baseURI);
          const [{ openModel }, { readSite }] = await Promise.all([import("/runtime.mjs"), import("/integrity.mjs")]);
          const { files } = await readSite(base);
          const opened = await openModel({ provider: "webgpu", why: "said to be there" }, files, base);
          const { embedding } = await opened.model.encodeText("red apple");
          return { ...opened, model: opened.model.providers, length: Math.hypot(...embedding) };
        }"""
    )
    page.close()
    assert found["model"] == ["wasm"] and found["provider"] == "wasm"
    assert re.fullmatch(r"WebGPU computes otherwise .*: .+ WebAssembly is used\.", found["note"], re.DOTALL)
    assert found["length"] == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("is_isolated", [True, False])
def test_threads_are_those_of_the_device_up_to_four(is_isolated: bool, visit: Visit) -> None:
    page = visit(is_isolated=is_isolated)
    count = page.evaluate("navigator.hardwareConcurrency")
    page.click("#open-details")
    found = page.inner_text("#facts-device").split("Threads\n")[1]
    assert found.startswith(f"{min(count, 4) if is_isolated else 1} of {count}")


GPU_OF_SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["sound", "differs"])
def test_a_gpu_is_used_only_if_it_repeats_the_golden_cases(case: str, site: Path, tmp_path: Path) -> None:
    """On the GPU of software that Chromium brings; WebAssembly finds the same."""
    from playwright.sync_api import sync_playwright

    folder = shutil.copytree(site, tmp_path / "site")
    if case == "differs":
        demand_exactness(folder)
    server = LoopbackServer({"/": folder})
    scores = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=list(GPU_OF_SOFTWARE))
        for wish in ("wasm", "webgpu"):
            page = browser.new_context(service_workers="block").new_page()
            page.goto(f"{server.url}/app.css")
            loaded = page.evaluate(LOAD, wish)
            expected = wish if case == "sound" else "wasm"
            assert loaded["provider"] == expected, loaded
            assert ("note" in loaded) == (wish != expected)
            scores[wish] = [loaded["scores"][str(place)] for place in range(len(loaded["scores"]))]
        browser.close()
    server.close()
    np.testing.assert_allclose(scores["webgpu"], scores["wasm"], atol=1e-4)


LOAD = """async (wish) => {
  const { Engine } = await import("/rpc.mjs");
  const engine = new Engine();
  const { provider, why, note } = await engine.ask("load", { wish });
  const { matches } = await engine.ask("search", { text: "red apple", top: 1e6, scope: "all" });
  const scores = Object.fromEntries(matches.map(({ key, score }) => [key, score]));
  return { provider, why, scores, ...(note ? { note } : {}) };
}"""


def demand_exactness(site: Path) -> None:
    """Golden cases that only torch itself would repeat, in a bundle that is whole, with an index that it made."""
    cases = site / "bundle/conformance/cases.json"
    table = json.loads(cases.read_text("utf-8"))
    table["tolerances"]["onnxruntime"] |= dict.fromkeys(("encode_image", "encode_text", "fuse"), 0)
    cases.write_text(json.dumps(table), "utf-8")
    content = cases.read_bytes()
    files = {"files": {"conformance/cases.json": {"size_bytes": len(content), "sha256": sha256(content)}}}
    bundle = sign_again(site / "bundle/manifest.json", files)
    index = sign_again(site / "index/manifest.json", {"parents": {"bundle": bundle}})
    facts = json.loads((site / "site.json").read_text("utf-8"))
    facts["bundle"]["digest"], facts["index"]["digest"] = bundle, index
    (site / "site.json").write_text(json.dumps(facts), "utf-8")


def sign_again(path: Path, changes: dict[str, dict[str, Any]]) -> str:
    manifest = json.loads(path.read_text("utf-8"))
    for key, change in changes.items():
        manifest[key] |= change
    del manifest["digest"]
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    manifest["digest"] = sha256(canonical.encode())
    path.write_text(json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return str(manifest["digest"])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.slow
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


@pytest.mark.slow
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
