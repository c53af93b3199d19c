"""The search page of a tiny bundle, served and opened in Chromium, for the tests that look at it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dmedge.artifact import Artifact
from dmedge.devices.browser import BrowserPage, find_chromium
from dmedge.devices.loopback import LoopbackServer
from dmedge.devices.npm import ONNXRUNTIME_WEB, fetch_package
from dmedge.flow.gallery import emoji_gallery
from dmedge.flow.index import IndexConfig, build_index
from dmedge.flow.web_app import HEADERS, build_site
from tests.made_once import folder_once, made_once
from tests.tiny_bundles import bundle_once

READY_MS = 60_000


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return bundle_once(tmp_path_factory, tiny_checkpoint, "web")


@pytest.fixture(scope="module")
def index(bundle: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    config = IndexConfig(min_recall=0)
    return made_once(
        tmp_path_factory, "web-index", lambda out: build_index(bundle, emoji_gallery("twemoji"), config, out)
    )


@pytest.fixture(scope="module")
def site(bundle: Artifact, index: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_once(tmp_path_factory, "web-site", lambda out: build_site(bundle, out, index=index))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests of a file, each with a profile of its own."""
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
        folder: Path = site,
        *,
        headers: Mapping[str, str] = HEADERS,
        worker: bool = False,
        is_broken: bool = False,
        **options: Any,
    ) -> Any:
        server = LoopbackServer({"/": folder}, headers=headers)
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
    server = LoopbackServer({"/": site}, headers=HEADERS)
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


@contextmanager
def readme_page(bundle: Artifact, folder: Path, last: str) -> Iterator[Callable[[str], Any]]:
    """The page in the README of a bundle, with a last line; gives the value of an expression, once it has one."""
    text = (bundle.root / "README.md").read_text(encoding="utf-8").split("```html\n")[1].split("```")[0]
    (folder / "index.html").write_text(text.replace("</script>", f"{last}\n</script>"), encoding="utf-8")
    files = {"/": folder, "/bundle/": bundle.root, "/ort/": fetch_package(ONNXRUNTIME_WEB) / "dist"}
    server = LoopbackServer(files, headers={})
    browser = BrowserPage(f"{server.url}/index.html")
    wait = "async () => { while ((%s) === undefined) await new Promise((done) => setTimeout(done, 20)); return %s; }"
    try:
        yield lambda expression: browser.ask(wait % (expression, expression))
    finally:
        browser.close()
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
def another_host() -> Iterator[tuple[str, list[str]]]:
    """Address of a server that is not the page's, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
