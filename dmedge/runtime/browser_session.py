"""A session whose programs run in a real browser, by the loader that the bundle carries."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.devices.browser import BrowserPage, Provider
from dmedge.devices.loopback import ISOLATION, LoopbackServer
from dmedge.devices.npm import ONNXRUNTIME_WEB, ONNXRUNTIME_WEBGPU, fetch_package
from dmedge.devices.webgpu import FLAGS, PAGE, Adapter, find_adapter, no_gpu_times
from dmedge.errors import ArtifactError, DmedgeError
from dmedge.runtime.session import (
    TIMEOUT_S,
    SessionFacts,
    check_inputs,
    find_program,
    peak_resident_bytes,
    resident_bytes,
)
from dmedge.runtime.wire import Array, Packed, pack, unpack

LOADER = "dmedge.mjs"
CHUNK = 256  # items in one message
_LOAD = "async (request) => { window.driver = await import('/driver.mjs'); return driver.load(request); }"
_PACKAGES = {"wasm": ONNXRUNTIME_WEB, "webgpu": ONNXRUNTIME_WEBGPU}


class BrowserSession:
    """The ONNX programs of a bundle for the web in onnxruntime-web, on WebAssembly or WebGPU."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        provider: Provider = "wasm",
        threads: int = 1,
        timeout_s: float = TIMEOUT_S,
        is_isolated: bool = True,
    ) -> None:
        """Start a browser and load the bundle in it.

        Args:
            artifact: a bundle of the target `web`.
            provider: what onnxruntime-web computes by; what "webgpu" leaves to WebAssembly is told by `placements`.
            threads: threads that one run may use.
            timeout_s: longest wait for one answer.
            is_isolated: whether the page is served with the headers that more than one thread needs.

        Raises:
            ArtifactError: the bundle has no loader for browsers.
            DmedgeError: the browser, Playwright, onnxruntime-web or an adapter for WebGPU is missing, or the loader
                refuses the bundle.
        """
        check_loader(artifact)
        self.provider = provider
        self._adapter: Adapter | None = None  # what WebGPU computes on
        self.programs = tuple(program for program in artifact.manifest.programs if program.runtime == "onnxruntime")
        self._timeout_s = timeout_s
        folders = {"/": PAGE, "/bundle/": artifact.root, "/ort/": fetch_package(_PACKAGES[provider]) / "dist"}
        self._server = LoopbackServer(folders, headers=ISOLATION if is_isolated else {})
        try:
            self._page = BrowserPage(f"{self._server.url}/index.html", flags=FLAGS if provider == "webgpu" else ())
        except DmedgeError:
            self._server.close()
            raise
        try:
            if provider == "webgpu":
                self._adapter = find_adapter(self._page)  # without one onnxruntime-web would say less
            base_rss_bytes = self._renderer_bytes(resident_bytes)
            request = {"threads": threads, "provider": provider}
            loaded = self._ask(_LOAD, request, f"while loading {artifact.root}")
        except DmedgeError:
            self.close()
            raise
        self._facts = SessionFacts(
            runtime="onnxruntime",
            version=f"onnxruntime-web {loaded['version']}, {self._page.version}",
            threads=loaded["threads"],
            load_ms=loaded["loadMs"],
            base_rss_bytes=base_rss_bytes,
            peak_rss_bytes=0,
        )
        if loaded["adapter"] is not None:
            self._adapter = Adapter.read(loaded["adapter"])
            self._facts["adapter"] = asdict(self._adapter)

    @property
    def software(self) -> Adapter | None:
        """What computes in place of a GPU, if software does; it has no times."""
        return self._adapter if self._adapter is not None and self._adapter.is_software else None

    def run(self, program: str, inputs: Sequence[Array]) -> list[Array]:
        """See `Session.run`."""
        return self.run_many(program, [inputs])[0]

    def run_many(
        self, program: str, items: Sequence[Sequence[Array]], *, outputs: Sequence[int] | None = None
    ) -> list[list[Array]]:
        """See `Session.run_many`; every item is a run of its own."""
        spec = find_program(self.programs, program)
        check_inputs(spec, items)
        wanted = list(range(len(spec.outputs)) if outputs is None else outputs)
        results: list[list[Array]] = []
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            request = {"program": program, "packed": _to_text(pack(chunk)), "count": len(chunk), "outputs": wanted}
            answer = self._ask("(request) => driver.run(request)", request, f"while running {program}")
            results += unpack(_from_text(answer), len(chunk))
        return results

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """See `Session.time`; by performance.now(), whose steps are 5 us in an isolated page and 100 us in another.

        Raises:
            DmedgeError: software computes in place of a GPU, and has no time of its own.
        """
        if self.software is not None:
            raise no_gpu_times(self.software)
        check_inputs(find_program(self.programs, program), [inputs])
        request = {"program": program, "packed": _to_text(pack([inputs])), "runs": runs}
        return np.array(self._ask("(request) => driver.time(request)", request, f"while timing {program}"), np.int64)

    def placements(self, cases: Mapping[str, Sequence[Array]]) -> dict[str, list[dict[str, Any]]]:
        """Which provider runs each operator of each program, as the profiler of onnxruntime-web saw it.

        Args:
            cases: program -> inputs of one run.

        Returns:
            Program -> for each operator that ran: `operator`, `provider`, and `types`, those of its outputs.
        """
        request = [{"program": program, "packed": _to_text(pack([inputs]))} for program, inputs in cases.items()]
        found: dict[str, list[dict[str, Any]]] = self._ask(
            "(cases) => driver.placements(cases)", request, "while asking where operators run"
        )
        return found

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, by the tokenizer of the loader."""
        ids: list[list[int]] = self._ask("(texts) => driver.tokenize(texts)", list(texts), "while tokenizing")
        return ids

    def pixels(self, files: Sequence[str]) -> list[bytes]:
        """Pixels of pictures of the bundle, decoded by the browser and resized by the loader."""
        found = self._ask("(files) => driver.pixels(files)", list(files), "while reading pictures")
        return [base64.b64decode(content) for content in found]

    def facts(self) -> SessionFacts:
        """See `Session.facts`; memory is that of the browser's largest renderer process.

        Software in place of a GPU tells neither time nor memory.
        """
        if self.software is not None:
            return {**self._facts, "load_ms": None, "base_rss_bytes": None, "peak_rss_bytes": None}
        return {**self._facts, "peak_rss_bytes": self._renderer_bytes(peak_resident_bytes)}

    def close(self) -> None:
        """End the browser and the server; closing twice is fine."""
        self._page.close()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, function: str, argument: object, doing: str) -> Any:
        return self._page.ask(function, argument, timeout_s=self._timeout_s, doing=doing)

    def _renderer_bytes(self, measure: Any) -> int:
        return max((measure(process) for process in self._page.renderer_processes()), default=0)


def check_loader(bundle: Artifact) -> None:
    """Refuse a bundle that no browser can load.

    Raises:
        ArtifactError: it has no loader for browsers.
    """
    if LOADER not in bundle.manifest.files:
        raise ArtifactError(f"{bundle.root}: no {LOADER} in it; expected a bundle for browsers; export for web")


def _to_text(packed: Packed) -> list[list[str]]:
    return [[dtype, *(base64.b64encode(part).decode() for part in parts)] for dtype, *parts in packed]


def _from_text(answer: Sequence[Sequence[str]]) -> Packed:
    return tuple((dtype, base64.b64decode(shapes), base64.b64decode(data)) for dtype, shapes, data in answer)
