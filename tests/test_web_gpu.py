"""What computes in the search page: a GPU only where it repeats golden cases, else WebAssembly, on a few threads."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmedge.devices.browser import find_chromium
from dmedge.devices.loopback import LoopbackServer
from dmedge.flow.web_app import HEADERS
from tests.tiny_bundles import tiny_checkpoint
from tests.web_pages import bundle, chromium, index, plain, site, until

__all__ = ["bundle", "chromium", "index", "plain", "site", "tiny_checkpoint"]  # fixtures

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
    page.goto(
        plain.url.partition("#")[0] + "app.css"
    )  # without the page's own policy, under that of all files, as a worker is
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
def test_threads_are_those_of_the_device_up_to_four(plain: Any) -> None:
    count = plain.evaluate("navigator.hardwareConcurrency")
    plain.click("#open-details")
    found = plain.inner_text("#facts-device").split("Threads\n")[1]
    assert found.startswith(f"{min(count, 4)} of {count}")
    plain.keyboard.press("Escape")


GPU_OF_SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["sound", "differs"])
def test_a_gpu_is_used_only_if_it_repeats_the_golden_cases(
    case: str, chromium: Any, site: Path, tmp_path: Path
) -> None:
    """On the GPU of software that Chromium brings; WebAssembly finds the same."""
    folder = shutil.copytree(site, tmp_path / "site")
    if case == "differs":
        demand_exactness(folder)
    server = LoopbackServer({"/": folder}, headers=HEADERS)
    scores = {}
    browser = chromium.browser_type.launch(executable_path=find_chromium(), args=list(GPU_OF_SOFTWARE))
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
