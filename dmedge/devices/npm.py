"""npm packages that browsers need: pinned, fetched once into the user's cache, checked, unpacked."""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from dmedge.errors import DmedgeError

DEFAULT_REGISTRY = "https://registry.npmjs.org"
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """One package, pinned by version and by the sha512 of its tarball."""

    name: str
    version: str
    integrity: str  # as npm writes it: "sha512-" and base64
    files: tuple[str, ...]  # that are kept of it

    @property
    def tarball(self) -> str:
        """Path of the tarball below a registry."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


ONNXRUNTIME_WEB = NpmPackage(
    name="onnxruntime-web",
    version="1.30.0",
    integrity="sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    files=("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
)
ONNXRUNTIME_WEBGPU = replace(
    ONNXRUNTIME_WEB,
    files=(
        "dist/ort.webgpu.min.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.wasm",
    ),
)


def fetch_package(package: NpmPackage, *, cache: Path | None = None, registry: str | None = None) -> Path:
    """Folder that holds the files of `package`, after a download if the cache does not have them.

    Args:
        package: which.
        cache: where packages are kept [default: the user's cache directory].
        registry: address to fetch from [default: the one that npm is set to, or the public one].

    Raises:
        DmedgeError: the registry gives no answer, or another tarball than the pinned one.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (cache or home / "dmedge" / "npm") / f"{package.name.replace('/', '-')}-{package.version}"
    if all((folder / name).is_file() for name in package.files):
        return folder
    content = _download(package, registry or _registry())
    found = f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
    if found != package.integrity:
        raise DmedgeError(
            f"{package.tarball}: {found[:20]}... is not the pinned {package.integrity[:20]}...; "
            "expected the tarball that the npm registry publishes; try again, or set npm to another registry"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for name in package.files:
                archive.extract(f"package/{name}", temporary, filter="data")
        for name in package.files:  # beside other files of the same package that something else asked for
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(temporary) / "package" / name).replace(folder / name)
    return folder


def _registry() -> str:
    """What `npm config get registry` says, where there is an npm."""
    npm = shutil.which("npm")
    if npm is None:
        return DEFAULT_REGISTRY
    asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
    answer = asked.stdout.strip()
    return answer if answer.startswith(("http://", "https://")) else DEFAULT_REGISTRY


def _download(package: NpmPackage, registry: str) -> bytes:
    address = f"{registry.rstrip('/')}/{urllib.parse.quote(package.tarball, safe='/@')}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content
    except (OSError, urllib.error.URLError) as error:
        raise DmedgeError(
            f"cannot fetch {package.name} {package.version} from the npm registry ({error}); "
            "a browser needs it once: connect this machine, or set npm_config_registry to a registry it can reach"
        ) from error
