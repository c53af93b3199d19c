"""The search page for browsers: a bundle, its index, a runtime and a few files, as one folder for any web server."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dmedge.apps
from dmedge.artifact import RUNS, Artifact, find_artifacts, load_artifact, program_bytes
from dmedge.data.emoji import TEST_STYLE, load_pack
from dmedge.data.languages import language_name, script_of
from dmedge.devices.loopback import ISOLATION
from dmedge.devices.npm import ONNXRUNTIME_WEB, ONNXRUNTIME_WEBGPU, fetch_package
from dmedge.errors import ArtifactError
from dmedge.evidence.measured import REPORT
from dmedge.files import digest_file, list_files
from dmedge.flow.atomic import new_folder
from dmedge.flow.gallery import emoji_gallery
from dmedge.flow.index import IndexConfig, build_index
from dmedge.flow.open_index import find_encoder
from dmedge.manifest import Manifest, read_manifest

PAGE = Path(dmedge.apps.__file__).parent / "web"
PAGE_SUFFIXES = (".html", ".css", ".mjs", ".js", ".webmanifest", ".svg", ".png", ".txt")
LOADER = "dmedge.mjs"  # of a bundle for browsers
POLICY = {  # of the page, of its workers, and of the threads of these
    "default-src": "'self'",
    "script-src": "'self' 'wasm-unsafe-eval'",  # WebAssembly is compiled by the worker
    "img-src": "'self' blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
HEADERS = {  # of every file: a worker is held to those of its own file, not to those of the page
    **ISOLATION,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in POLICY.items()),
}
RIGHT_TO_LEFT = ("Arab", "Hebr", "Nkoo", "Syrc", "Thaa", "Adlm", "Rohg")


def build_site(bundle: Artifact, out: Path, *, index: Artifact | None = None) -> Path:
    """Write the search page for `bundle` into the folder `out`, whole or not at all.

    Args:
        bundle: of the target `web`.
        out: folder to create.
        index: pictures to search in, made by the same bundle [default: the emoji of the test style].

    Raises:
        ArtifactError: `out` exists, the bundle is not for browsers, or another bundle made the index.
        DmedgeError: onnxruntime-web cannot be fetched, or the bundle does not run.
    """
    if LOADER not in bundle.manifest.files:
        raise ArtifactError(
            f"{bundle.root}: a bundle for {bundle.manifest.target}; expected one for browsers; "
            "run dmedge export --target web"
        )
    if index is not None:
        find_encoder(index, bundle)
    with new_folder(out) as folder:
        found = index or build_index(bundle, emoji_gallery(TEST_STYLE), IndexConfig(), folder / "index")
        if index is not None:
            shutil.copytree(index.root, folder / "index")
        shutil.copytree(bundle.root, folder / "bundle")
        _copy_page(folder)
        _copy_runtime(folder, is_for_gpus=can_use_webgpu(bundle.manifest))
        languages = _write_words(folder, bundle)
        _write_site(folder, bundle, found, languages)
    return out


def is_for_browsers(manifest: Manifest) -> bool:
    """Whether a bundle with this manifest has the loader."""
    return LOADER in manifest.files


def can_use_webgpu(manifest: Manifest) -> bool:
    """Whether a GPU can run the programs: onnxruntime-web has no WebGPU kernels for operators of int8."""
    return manifest.summary.get("precision") == "float32"


def _copy_page(folder: Path) -> None:
    for path in sorted(PAGE.rglob("*")):
        if path.is_file() and path.suffix in PAGE_SUFFIXES:
            place = folder / path.relative_to(PAGE)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
    headers = "\n".join(f"  {name}: {value}" for name, value in HEADERS.items())
    (folder / "_headers").write_text(f"/*\n{headers}\n", encoding="utf-8")  # as several static hosts read it


def _copy_runtime(folder: Path, *, is_for_gpus: bool) -> None:
    (folder / "ort").mkdir()
    for package in (ONNXRUNTIME_WEB, ONNXRUNTIME_WEBGPU) if is_for_gpus else (ONNXRUNTIME_WEB,):
        kept = fetch_package(package)
        for name in package.files:
            shutil.copyfile(kept / name, folder / "ort" / Path(name).name)


def _write_words(folder: Path, bundle: Artifact) -> list[dict[str, str]]:
    """Names of emoji in every language of the bundle that the data knows, aligned with words/characters.json.

    Returns:
        tag, English name and direction of these languages.
    """
    pack = load_pack()
    (folder / "words").mkdir()
    locales = [locale for locale in pack.locales if locale in bundle.manifest.languages] or list(pack.locales)
    _write_json(folder / "words/characters.json", [emoji.char for emoji in pack.emoji])
    for locale in locales:
        _write_json(folder / f"words/{locale}.json", pack.names(locale))
    return [
        {
            "tag": locale,
            "name": language_name(locale),
            "direction": "rtl" if script_of(locale) in RIGHT_TO_LEFT else "ltr",
        }
        for locale in locales
    ]


def _write_site(folder: Path, bundle: Artifact, index: Artifact, languages: list[dict[str, str]]) -> None:
    """site.json, which names every file with its sha256, and version.js, which the service worker reads."""
    names = [name for name in list_files(folder) if name not in ("sw.js", "_headers")]
    digests = {name: asdict(digest_file(folder / name)) for name in names}
    facts: dict[str, Any] = {
        "bundle": {
            "digest": bundle.digest,
            "verdict": find_verdict(bundle),
            "program_bytes": program_bytes(bundle),
            "total_bytes": _bytes_below(digests, "bundle/"),
        },
        "index": {"digest": index.digest, "total_bytes": _bytes_below(digests, "index/")},
        "webgpu": can_use_webgpu(bundle.manifest),
        "total_bytes": _bytes_below(digests, ""),
        "languages": languages,
        "files": digests,
    }
    facts["version"] = hashlib.sha256(json.dumps([facts, HEADERS], sort_keys=True).encode()).hexdigest()[:16]
    _write_json(folder / "site.json", facts)
    known = {name: digest["sha256"] for name, digest in digests.items()}
    known["site.json"] = digest_file(folder / "site.json").sha256
    version = json.dumps({"version": facts["version"], "headers": HEADERS, "files": known}, indent=0)
    (folder / "version.js").write_text(f"self.SITE = {version};\n", encoding="utf-8")


def find_verdict(bundle: Artifact) -> str:
    """What the newest evidence beside the bundle, or below runs/, says of it; "not verified" if there is none."""
    for folder in [folder for place in (bundle.root.parent, RUNS) for folder in find_artifacts(place)]:
        try:
            manifest = read_manifest(folder)
        except ArtifactError:
            continue  # damaged, so it says nothing
        if manifest.stage == "verify" and manifest.parents.get("artifact") == bundle.digest:
            report = load_artifact(folder, kind="evidence").file(REPORT)
            return str(json.loads(report.read_text(encoding="utf-8"))["verdict"])
    return "not verified"


def _bytes_below(digests: Mapping[str, Mapping[str, Any]], prefix: str) -> int:
    return sum(int(digest["size_bytes"]) for name, digest in digests.items() if name.startswith(prefix))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
