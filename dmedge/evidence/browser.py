"""Whether a bundle for the web computes in a real browser what torch computed when it was exported."""

import json
from dataclasses import replace

import numpy as np

from dmedge.artifact import Artifact
from dmedge.evidence.parity import CASES, GOLDEN, ParityReport, check_parity, golden_key
from dmedge.runtime.browser_session import BrowserSession


def open_browser_session(bundle: Artifact, *, threads: int = 1) -> BrowserSession:
    """Load a bundle of the target `web` in headless Chromium.

    Raises:
        ArtifactError: the bundle has no loader for browsers.
        DmedgeError: Chromium, Playwright or onnxruntime-web is missing, or the loader refuses the bundle.
    """
    return BrowserSession(bundle, threads=threads)


def prove_in_browser(bundle: Artifact, *, threads: int = 1) -> ParityReport:
    """Run the conformance pack of `bundle` in headless Chromium; pixels and token ids too are those of its loader.

    Raises:
        ArtifactError: the pack is missing or unreadable, or the bundle has no loader for browsers.
        DmedgeError: Chromium, Playwright or onnxruntime-web is missing, or the loader refuses the bundle.
    """
    with open_browser_session(bundle, threads=threads) as session:
        return check_in_browser(session, bundle)


def check_in_browser(session: BrowserSession, bundle: Artifact) -> ParityReport:
    """As `check_parity`; a picture or a text differs if the loader of the bundle makes something else of it.

    Raises:
        ArtifactError: the pack is missing or unreadable.
    """
    report = check_parity(session, bundle)
    folder = bundle.root / "conformance"
    cases = json.loads((folder / CASES).read_text(encoding="utf-8"))
    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        pixels = [golden[golden_key("encode_image", case, "pixels")] for case in range(len(cases["images"]))]
        ids = [golden[golden_key("encode_text", case, "ids")] for case in range(len(cases["texts"]))]
    found_pixels = session.pixels([f"conformance/{name}" for name in cases["images"]])
    found_ids = session.tokenize(cases["texts"])
    images = zip(cases["images"], pixels, found_pixels, strict=True)
    texts = zip(cases["texts"], ids, found_ids, strict=True)
    return replace(
        report,
        images_differing=tuple(name for name, want, found in images if want.tobytes() != found),
        texts_differing=tuple(text for text, want, found in texts if want[0].tolist() != found),
    )
