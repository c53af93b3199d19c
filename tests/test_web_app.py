"""The folder of the search page: what it holds, what it is refused for, and the command that serves it."""

import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from dmedge.artifact import Artifact
from dmedge.devices.loopback import LoopbackServer
from dmedge.devices.npm import ONNXRUNTIME_WEB, ONNXRUNTIME_WEBGPU
from dmedge.errors import ArtifactError, DmedgeError
from dmedge.flow.web_app import HEADERS, PAGE, build_site, can_use_webgpu
from tests.conftest import MakeArtifact
from tests.tiny_bundles import tiny_checkpoint
from tests.web_pages import bundle, index, site

__all__ = ["bundle", "index", "site", "tiny_checkpoint"]  # fixtures


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


def test_command_serves_the_site_with_its_headers(bundle: Artifact, index: Artifact) -> None:
    command = ["-m", "dmedge", "app", "web", str(bundle.root), "--index", str(index.root), "--serve", "--port", "0"]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[0]
        with urllib.request.urlopen(url) as answer:
            assert b"<title>Picture search" in answer.read()
            assert HEADERS.items() <= dict(answer.headers).items()
        server.terminate()


def test_taken_port_is_named(site: Path) -> None:
    server = LoopbackServer({"/": site})
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(DmedgeError, match=f"port {port}: .*; choose another --port"):
        LoopbackServer({"/": site}, port=port)
    server.close()


def test_headers_of_the_site_stand_wherever_hosts_and_workers_read_them(site: Path) -> None:
    first, *lines = (site / "_headers").read_text("utf-8").splitlines()
    assert first == "/*" and dict(line.strip().split(": ", 1) for line in lines) == HEADERS
    version = (site / "version.js").read_text("utf-8").removeprefix("self.SITE = ").rstrip(";\n")
    assert json.loads(version)["headers"] == HEADERS
    assert {"Cross-Origin-Opener-Policy", "Cross-Origin-Embedder-Policy", "Content-Security-Policy"} <= set(HEADERS)


def test_page_alone_allows_no_more_than_the_header(site: Path) -> None:
    meta = re.search(r'http-equiv="Content-Security-Policy" content="(.+?)"', (site / "index.html").read_text("utf-8"))
    assert meta is not None
    assert set(meta[1].split("; ")) < set(HEADERS["Content-Security-Policy"].split("; "))
    assert "unsafe-inline" not in HEADERS["Content-Security-Policy"]
    assert "'unsafe-eval'" not in HEADERS["Content-Security-Policy"]
