"""The search page as hosts serve it: offline, anew, without headers, tampered with, bound to its own host."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_bundles import tiny_checkpoint
from tests.web_pages import READY_MS, Visit, another_host, bundle, chromium, index, site, type_query, until, visit

__all__ = ["bundle", "chromium", "index", "site", "tiny_checkpoint", "visit"]  # fixtures

pytestmark = pytest.mark.slow

ASK = """async (url) => {
  const broken = [];
  addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective), { once: true });
  const outcome = await fetch(url, { mode: "no-cors" }).then(() => "answered", () => "refused");
  await new Promise((done) => setTimeout(done, 20)); // for the event
  return [outcome, ...broken];
}"""


def ask_from_worker(page: Any, url: str) -> list[str]:
    """What comes of a fetch by the worker that computes: "answered" or "refused", and the directive against it."""
    (worker,) = [worker for worker in page.workers if worker.url.endswith("/engine.mjs")]
    found: list[str] = worker.evaluate(ASK, url)
    return found


REFUSED = ["refused", "connect-src"]


def test_worker_asks_no_other_host(visit: Visit) -> None:
    page = visit()
    with another_host() as (url, asked):
        assert ask_from_worker(page, f"{url}/word") == REFUSED
        assert ask_from_worker(page, f"{page.server.url}/app.css") == ["answered"]
        assert page.evaluate(ASK, f"{url}/page") == REFUSED
    assert asked == []


def test_site_can_be_installed_and_works_offline(visit: Visit, site: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(site, tmp_path / "site")
    page = visit(folder, worker=True, headers={})
    assert page.evaluate("crossOriginIsolated") is False
    page.wait_for_selector("text=Ready for offline use.", timeout=READY_MS)
    devtools = page.context.new_cdp_session(page)
    errors = devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert {error["errorId"] for error in errors} <= {"in-incognito"}  # as the profiles of tests are
    online = type_query(page, "red apple")
    with another_host() as (url, asked):  # a host without headers: nothing binds the worker yet
        assert ask_from_worker(page, f"{url}/word") == ["answered"] and asked == ["/word"]
    page.server.close()
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("body[data-ready=yes]", timeout=READY_MS)
    assert type_query(page, "red apple") == online
    assert page.evaluate("crossOriginIsolated") is True  # by the headers that the service worker adds
    page.context.set_offline(False)  # the site's own server stays closed
    with another_host() as (url, asked):
        assert ask_from_worker(page, f"{url}/word") == REFUSED and asked == []


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


def test_page_without_isolation_runs_on_one_thread(visit: Visit) -> None:
    page = visit(headers={})
    assert page.evaluate("crossOriginIsolated") is False
    assert len(type_query(page, "red apple")) == 48
    page.click("#open-details")
    count = page.evaluate("navigator.hardwareConcurrency")
    assert f"1 of {count}; page is not isolated, so 1" in page.inner_text("#facts-device")
