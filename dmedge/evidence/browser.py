"""Whether a bundle for the web computes in a real browser what torch computed when it was exported."""

from dataclasses import replace

import numpy as np

from dmedge.artifact import Artifact
from dmedge.devices.browser import Provider
from dmedge.errors import DmedgeError
from dmedge.evidence.pack import FOLDER, Pack, read_pack
from dmedge.evidence.parity import Difference, ParityReport, check_parity, first_difference, first_token
from dmedge.runtime.browser_session import BrowserSession

ON_GPU = "WebGpuExecutionProvider"
SHAPES = "int64"  # the type of sizes and shapes, which onnxruntime computes on the processor, and of nothing else here


def open_browser_session(bundle: Artifact, *, provider: Provider = "wasm", threads: int = 1) -> BrowserSession:
    """Load a bundle of the target `web` in headless Chromium.

    Raises:
        ArtifactError: the bundle has no loader for browsers.
        DmedgeError: Chromium, Playwright, onnxruntime-web or an adapter for WebGPU is missing, or the loader refuses
            the bundle.
    """
    return BrowserSession(bundle, provider=provider, threads=threads)


def prove_in_browser(bundle: Artifact, *, provider: Provider = "wasm", threads: int = 1) -> ParityReport:
    """Run the conformance pack of `bundle` in headless Chromium; pixels and token ids too are those of its loader.

    Raises:
        ArtifactError: the pack is missing or unreadable, or the bundle has no loader for browsers.
        DmedgeError: Chromium, Playwright, onnxruntime-web or an adapter for WebGPU is missing, the loader refuses the
            bundle, or WebGPU does not run all of it.
    """
    with open_browser_session(bundle, provider=provider, threads=threads) as session:
        return check_in_browser(session, bundle)


def check_in_browser(session: BrowserSession, bundle: Artifact) -> ParityReport:
    """As `check_parity`; a picture or a text differs if the loader of the bundle makes something else of it.

    Raises:
        ArtifactError: the pack is missing or unreadable.
        DmedgeError: the session is one on WebGPU, which does not run all of the bundle.
    """
    pack = read_pack(bundle)
    if session.provider == "webgpu":
        _check_placements(session, bundle, pack)
    report = check_parity(session, bundle)
    images: dict[str, Difference] = {}
    for case, (name, found) in enumerate(zip(pack.images, session.pixels(_files(pack)), strict=True)):
        want = pack.array(pack.holder("pixels"), case, "pixels")
        if want.tobytes() != found:
            shape = want.shape if len(found) == want.nbytes else (len(found),)
            images[name] = first_difference(
                case, name, "pixels", want, np.frombuffer(found, np.uint8).reshape(shape), 0.0
            )
    texts: dict[str, Difference] = {}
    for case, (text, ids) in enumerate(zip(pack.texts, session.tokenize(list(pack.texts)), strict=True)):
        want = pack.array(pack.holder("ids"), case, "ids")
        if want[0].tolist() != ids:
            texts[text] = first_token(case, text, "ids", want, np.array([ids], np.int32))
    return replace(
        report,
        images_differing=tuple(images),
        texts_differing=tuple(texts),
        first_pixel=next(iter(images.values()), None),
        first_token=next(iter(texts.values()), None),
    )


def _check_placements(session: BrowserSession, bundle: Artifact, pack: Pack) -> None:
    """Refuse what onnxruntime-web would silently compute in WebAssembly: operators that have no kernel for WebGPU."""
    cases = {
        program.name: [pack.array(program.name, 0, spec.name) for spec in program.inputs]
        for program in session.programs
    }
    for program, rows in session.placements(cases).items():
        left = sorted({row["operator"] for row in rows if row["provider"] != ON_GPU and set(row["types"]) != {SHAPES}})
        if left or all(row["provider"] != ON_GPU for row in rows):
            raise DmedgeError(
                f"{bundle.root}: on WebGPU, onnxruntime-web leaves {', '.join(left) or 'all operators'} of {program} "
                "to WebAssembly; expected programs that the GPU runs whole, as it does float32 ones; "
                "use --device web, or export the float32 checkpoint"
            )


def _files(pack: Pack) -> list[str]:
    return [f"{FOLDER}/{name}" for name in pack.images]
