"""The search program for arm64 boards: compiled for them, packed with all that it reads and needs, as one archive."""

import gzip
import io
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import dmedge.apps
from dmedge.artifact import Artifact
from dmedge.data.emoji import TEST_STYLE
from dmedge.devices.adb import LOADERS, c_library_files
from dmedge.devices.native_runner import LIBRARIES, Sources, build_program
from dmedge.devices.wheels import Machine, library_folder
from dmedge.errors import ArtifactError, DmedgeError
from dmedge.flow.atomic import write_atomically
from dmedge.flow.gallery import emoji_gallery
from dmedge.flow.index import IndexConfig, build_index
from dmedge.flow.open_index import find_encoder
from dmedge.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest

APP = Path(dmedge.apps.__file__).parent / "linux-arm64"
FOLDER = "dmedge-search"  # in the archive
MACHINE: Machine = "aarch64"
PROGRAM, TOKENIZER = "encode_text", "tokenizer.model"  # what the program reads of a bundle
LICENSES = Path("/usr/share/common-licenses")  # of Debian
_LICENSE_NAMES = ("Apache-2.0", "GPL-2", "GPL-3", "LGPL-2.1")
_DOCS = Path("/usr/share/doc")
_C_PACKAGES = ("libc6", "libstdc++6", "libgcc-s1")  # whose libraries travel with the program
_EXECUTABLES = ("search", f"{LIBRARIES}/search", f"{LIBRARIES}/{LOADERS[MACHINE]}")


def build_board_app(bundle: Artifact, out: Path, *, index: Artifact | None = None) -> Path:
    """Write the search program with `bundle` and its index into the archive `out`, whole or not at all.

    The same bundle, index and compiler give the same bytes.

    Args:
        bundle: with an ExecuTorch program that reads text, such as those of the target `linux-arm64`.
        out: .tar.gz to create.
        index: pictures to search in, made by the same bundle [default: the emoji of the test style].

    Raises:
        ArtifactError: `out` exists, the bundle is not for this program, or another bundle made the index.
        DmedgeError: the cross compiler or the wheel for arm64 is missing, or the bundle does not run.
    """
    if not is_for_boards(bundle.manifest):
        raise ArtifactError(
            f"{bundle.root}: a bundle for {bundle.manifest.target}, without {PROGRAM} for ExecuTorch or without "
            f"{TOKENIZER}; expected both; run dmedge export --target linux-arm64"
        )
    if out.exists() or out.is_symlink():
        raise ArtifactError(f"{out}: exists already; expected a new file; choose another --out or remove it")
    if index is not None:
        find_encoder(index, bundle)
    files = _program_files() | _license_files() | _source_files()
    with tempfile.TemporaryDirectory() as temporary:
        found = index or build_index(bundle, emoji_gallery(TEST_STYLE), IndexConfig(), Path(temporary) / "index")
        files |= _artifact_files("bundle", bundle) | _artifact_files("index", found)
        write_atomically(out, lambda stream: _pack(stream, files))
    return out


def is_for_boards(manifest: Manifest) -> bool:
    """Whether the program runs a bundle with this manifest."""
    names = {program.name for program in manifest.programs if program.runtime == "executorch"}
    return PROGRAM in names and TOKENIZER in manifest.files


def _program_files() -> dict[str, Path]:
    """The program, compiled if need be, its launcher and its libraries, by their names in the archive."""
    wheel = library_folder("executorch", MACHINE)
    options = ("-O3", "-s", f"-ffile-prefix-map={wheel}=executorch", f"-ffile-prefix-map={APP}=src")
    sources = Sources(APP / "search.cpp", tuple(sorted(APP.glob("*.h"))), options, "search program")
    files = dict(build_program("executorch", MACHINE, sources).files)
    program = {"search": APP / "search.sh", f"{LIBRARIES}/search": files.pop("runner")}
    return program | files | c_library_files(MACHINE)


def _source_files() -> dict[str, Path]:
    """What it takes to build the program on the board."""
    sources = [path for path in sorted(APP.iterdir()) if path.suffix in (".cpp", ".h") or path.name == "Makefile"]
    return {"README.md": APP / "README.md"} | {f"src/{path.name}": path for path in sources}


def _license_files() -> dict[str, Path]:
    """Terms of the libraries: of ExecuTorch, and of the C libraries as Debian states them.

    Raises:
        DmedgeError: Debian's are missing here.
    """
    files = {f"LICENSES/{path.name}": path for path in sorted((APP / "licenses").iterdir())}
    files |= {f"LICENSES/{name}": LICENSES / name for name in _LICENSE_NAMES}
    for package in _C_PACKAGES:
        places = [_DOCS / name / "copyright" for name in (f"{package}-arm64-cross", package)]
        files[f"LICENSES/{package}.txt"] = next((place for place in places if place.is_file()), places[0])
    for path in files.values():
        if not path.is_file():
            raise DmedgeError(
                f"{path}: no such file; expected the terms of a library that travels with the program, as Debian "
                "installs them; install its package again"
            )
    return files


def _artifact_files(name: str, artifact: Artifact) -> dict[str, Path]:
    names = [*artifact.manifest.files, MANIFEST_NAME]
    names += [SIGNATURE_NAME] if (artifact.root / SIGNATURE_NAME).is_file() else []
    return {f"{name}/{part}": artifact.root / part for part in names}


def _pack(stream: IO[bytes], files: Mapping[str, Path]) -> None:
    """A .tar.gz without times and owners, sorted by name."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, path in sorted(files.items()):
            content = path.read_bytes()
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode = len(content), 0o755 if name in _EXECUTABLES else 0o644
            archive.addfile(entry, io.BytesIO(content))
