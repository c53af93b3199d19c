"""The app beside a bundle for a phone: the sources of `apps/`, the bundle, and what is particular to it."""

import base64
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dmedge.apps
from dmedge.artifact import Artifact
from dmedge.errors import ArtifactError
from dmedge.evidence.pack import SCORES, read_pack
from dmedge.evidence.parity import golden_scales
from dmedge.flow.atomic import new_folder
from dmedge.flow.open_index import find_encoder
from dmedge.flow.phone_facts import facts_of_android, facts_of_ios
from dmedge.manifest import Manifest, Runtime
from dmedge.runtime.wire import Array

SUFFIXES = (".kt", ".kts", ".properties", ".xml", ".swift", ".md")
RUNTIME: Runtime = "executorch"
VOCABULARY = "tokenizer.model"
VECTORS = "vectors.json"


@dataclass(frozen=True, slots=True)
class Phone:
    """Where in a project of one platform things go; paths are relative to it."""

    resources: str  # holds `bundle/` and `index/`
    golden: str  # holds `vectors.json`, which tests alone read
    facts: str  # the one generated source


PHONES: Mapping[str, Phone] = {
    "android": Phone("assets", "golden", "model/src/main/kotlin/dmedge/BundleFacts.kt"),
    "ios": Phone("Sources/Dmedge/Assets", "Tests/DmedgeTests/Golden", "Sources/Dmedge/BundleFacts.swift"),
}
WRITERS = {"android": facts_of_android, "ios": facts_of_ios}


def app_beside(bundle: Path) -> Path:
    """Where the app of a bundle goes by default: BUNDLE.app, beside it."""
    return bundle.with_name(f"{bundle.name}.app")


def find_app(bundle: Artifact) -> Path | None:
    """The app of a bundle in the default place; None if there is none, or if it is that of another bundle."""
    phone = PHONES.get(str(bundle.manifest.target))
    facts = app_beside(bundle.root) / phone.facts if phone else None
    is_its = facts is not None and facts.is_file() and bundle.digest in facts.read_text(encoding="utf-8")
    return app_beside(bundle.root) if is_its else None


def why_no_app(manifest: Manifest) -> str | None:
    """What keeps a bundle from an app for its target, in words; None if nothing does."""
    if manifest.target not in PHONES:
        return f"a bundle for {manifest.target}; expected one for {' or '.join(PHONES)}; run dmedge export --target"
    minimum: Any = manifest.summary.get("minimum_versions", {})
    if RUNTIME not in minimum or RUNTIME not in {program.runtime for program in manifest.programs}:
        return f"no program for {RUNTIME}, which the app runs; expected one; export it again, without --runtime"
    reads_text = any(spec.name == "ids" for program in manifest.programs for spec in program.inputs)
    if reads_text and VOCABULARY not in manifest.files:
        return (
            f"its tokenizer is an imported one; the app reads {VOCABULARY} alone; expected a vocabulary of dmedge's "
            "own, or a variant that reads no text (image-only or prompts)"
        )
    return None


def write_app(bundle: Artifact, out: Path, *, index: Artifact | None = None) -> Path:
    """Write the project that runs `bundle` on its phone into the folder `out`, whole or not at all.

    It holds the sources of `apps/TARGET` as they are, one generated source with the numbers of the bundle, a copy of
    the bundle, and the golden arrays of its conformance pack as JSON.

    Args:
        bundle: of the target `android` or `ios`.
        out: folder to create.
        index: pictures that the sample searches in, made by the same bundle [default: none; its folder is empty].

    Raises:
        ArtifactError: `out` exists, there is no app for such a bundle, or another bundle made the index.
    """
    if (reason := why_no_app(bundle.manifest)) is not None:
        raise ArtifactError(f"{bundle.root}: {reason}")
    if index is not None:
        find_encoder(index, bundle)
    target = str(bundle.manifest.target)
    phone = PHONES[target]
    with new_folder(out) as folder:
        _copy_sources(Path(dmedge.apps.__file__).parent / target, folder)
        (folder / phone.facts).write_text(WRITERS[target](bundle, RUNTIME), encoding="utf-8")
        shutil.copytree(bundle.root, folder / phone.resources / "bundle")
        if index is not None:
            shutil.copytree(index.root, folder / phone.resources / "index")
        (folder / phone.golden).mkdir()
        (folder / phone.golden / VECTORS).write_text(json.dumps(golden_vectors(bundle)) + "\n", encoding="utf-8")
    return out


def golden_vectors(bundle: Artifact) -> dict[str, Any]:
    """The conformance pack for readers without numpy.

    Returns:
        `bundle`, its digest; `scales`, PROGRAM/OUTPUT -> what its errors are relative to, where that is not its own
        largest value; `arrays`, PROGRAM/CASE/NAME -> shape, dtype and little-endian base64.
    """
    pack = read_pack(bundle)
    programs = [program for program in bundle.manifest.programs if program.runtime == RUNTIME]
    return {
        "bundle": bundle.digest,
        "scales": {f"{p.name}/{name}": scale for p in programs for name, scale in golden_scales(pack, p).items()},
        "arrays": {key: _plain(array) for key, array in pack.golden.items() if key != SCORES},
    }


def _plain(array: Array) -> dict[str, Any]:
    content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return {"shape": list(array.shape), "dtype": array.dtype.name, "base64": base64.b64encode(content).decode()}


def _copy_sources(source: Path, folder: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in SUFFIXES:
            place = folder / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
