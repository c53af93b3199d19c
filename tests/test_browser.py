"""The browser answers or says why not; npm packages are the pinned ones; the server keeps to its folders."""

import base64
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dmedge.devices.browser import BrowserPage, find_chromium
from dmedge.devices.loopback import LoopbackServer
from dmedge.devices.npm import NpmPackage, fetch_package
from dmedge.errors import DmedgeError

PACKAGE = NpmPackage(
    name="@scope/tiny",
    version="1.0.0",
    integrity=f"sha512-{'A' * 86}==",  # of no tarball that anybody has
    files=("dist/tiny.mjs",),
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry that holds one package."""
    tarball = tmp_path / "registry" / PACKAGE.tarball
    tarball.parent.mkdir(parents=True)
    with tarfile.open(tarball, "w") as archive:
        for name in ("dist/tiny.mjs", "dist/tiny.map"):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"tiny\n"))
    server = LoopbackServer({"/": tmp_path / "registry"})
    yield server.url
    server.close()


def pinned(registry: str, package: NpmPackage = PACKAGE) -> NpmPackage:
    """The package with the digest of what the registry holds."""
    with urllib.request.urlopen(f"{registry}/{package.tarball}") as answer:
        digest = hashlib.sha512(answer.read()).digest()
    return replace(package, integrity=f"sha512-{base64.b64encode(digest).decode()}")


def test_a_package_is_fetched_once(registry: str, tmp_path: Path) -> None:
    package = pinned(registry)
    folder = fetch_package(package, cache=tmp_path / "cache", registry=registry)
    assert (folder / "dist/tiny.mjs").read_text() == "tiny\n"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["@scope-tiny-1.0.0"]
    assert not (folder / "dist/tiny.map").exists()
    assert fetch_package(package, cache=tmp_path / "cache", registry="http://127.0.0.1:9") == folder


def test_another_tarball_is_refused(registry: str, tmp_path: Path) -> None:
    with pytest.raises(DmedgeError, match="is not the pinned sha512-"):
        fetch_package(PACKAGE, cache=tmp_path / "cache", registry=registry)
    assert not (tmp_path / "cache").exists()


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DmedgeError, match="cannot fetch @scope/tiny 1.0.0 from the npm registry .* npm_config_registry"
    ):
        fetch_package(PACKAGE, cache=tmp_path / "cache", registry="http://127.0.0.1:9")


def test_a_missing_browser_names_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DmedgeError, match="no Chromium: .* run: apt-get install --no-install-recommends chromium"):
        find_chromium()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    (tmp_path / "site/sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "site/index.html").write_text("<!doctype html>")
    (tmp_path / "site/sub/code.mjs").write_text("export {};")
    (tmp_path / "site/sub/code.wasm").write_bytes(b"\0asm")
    found = LoopbackServer({"/": tmp_path / "site", "/other/": tmp_path / "site/sub"})
    yield found
    found.close()


@pytest.mark.parametrize("path, kind", [("sub/code.mjs", "text/javascript"), ("other/code.wasm", "application/wasm")])
def test_files_have_the_types_and_headers_that_browsers_want(path: str, kind: str, server: LoopbackServer) -> None:
    with urllib.request.urlopen(f"{server.url}/{path}") as answer:
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@pytest.mark.parametrize("path", ["../secret.txt", "%2e%2e/secret.txt", "other/../../secret.txt", "missing"])
def test_nothing_else_is_served(path: str, server: LoopbackServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{server.url}/{path}")


@pytest.mark.slow
def test_a_page_answers_or_says_why_not(server: LoopbackServer) -> None:
    page = BrowserPage(f"{server.url}/index.html")
    assert page.ask("([a, b]) => Promise.resolve(a + b)", [1, 2]) == 3
    with pytest.raises(DmedgeError, match="Chromium failed in the page: Error: broken"):
        page.ask("() => { throw new Error('broken'); }")
    assert page.renderer_processes()
    with pytest.raises(DmedgeError, match="no answer within 0.5 s while waiting and was ended"):
        page.ask("() => { for (;;); }", timeout_s=0.5, doing="while waiting")
    with pytest.raises(DmedgeError, match="the browser is closed"):
        page.ask("() => 1")
    page.close()


@pytest.mark.slow
def test_a_page_that_is_not_there_is_an_error(server: LoopbackServer) -> None:
    server.close()
    with pytest.raises(DmedgeError, match="Chromium failed while starting: net::ERR_CONNECTION_REFUSED"):
        BrowserPage(server.url)
