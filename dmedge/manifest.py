"""What an artifact says of itself: the manifest, its canonical JSON, and the digest of that."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from dmedge.config import load_config
from dmedge.errors import ArtifactError, ConfigError

Kind = Literal["checkpoint", "bundle", "evidence", "index"]
Runtime = Literal["torch", "onnxruntime", "executorch", "coreml"]

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"  # of the manifest, so it cannot be named there
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size and content of one file."""

    size_bytes: int
    sha256: str  # lower-case hex


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a program."""

    name: str
    shape: tuple[int | str, ...]  # a str names a dimension that may vary
    dtype: str  # numpy's name, e.g. "uint8"
    bounds: tuple[float, float] | None = None  # least and greatest value that may be fed in


@dataclass(frozen=True, slots=True)
class Program:
    """One entry point of a model, and the file and runtime that carry it."""

    name: str  # "encode_image", "encode_text", "fuse", or one of `dmedge.variants`
    file: str  # or the directory that holds all of it, as a `.mlpackage` does
    runtime: Runtime
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a reader needs to load, run and audit one artifact."""

    kind: Kind
    stage: str  # the function that made it, e.g. "train"
    config: Mapping[str, object]  # the exact settings of `stage`
    files: Mapping[str, FileDigest]  # POSIX path below the root -> content
    parents: Mapping[str, str] = field(default_factory=dict)  # role -> digest; empty for the fp32 baseline
    programs: tuple[Program, ...] = ()
    precision: Mapping[str, str] = field(default_factory=dict)  # module -> scheme
    languages: tuple[str, ...] = ()
    summary: Mapping[str, object] = field(default_factory=dict)  # the few facts that a reader wants first
    tools: Mapping[str, str] = field(default_factory=dict)  # package -> version
    target: str | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in self.files:
            if not is_safe_name(name):
                raise ValueError(f"unsafe file name {name!r}; expected a plain relative path")
        for program in self.programs:
            if not self.program_files(program):
                raise ValueError(f"program {program.name!r} names {program.file!r}, which is not among its files")

    def program_files(self, program: Program) -> tuple[str, ...]:
        """Files that make up one program: the one that it names, or all in the directory that it names."""
        return tuple(name for name in self.files if name == program.file or name.startswith(f"{program.file}/"))

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, lower-case hex; holds no time, host or path."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()


def is_safe_name(name: str) -> bool:
    """Whether `name` stays below the root of an artifact on every system, and is not the manifest or its signature."""
    path = PurePosixPath(name)
    has_odd_character = any(ord(character) < 32 or character in "\\:" for character in name)
    is_plain = name == str(path) and not path.is_absolute() and ".." not in path.parts
    return is_plain and not has_odd_character and name not in (".", MANIFEST_NAME, SIGNATURE_NAME)


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: the same bytes for the same facts.

    Raises:
        ArtifactError: something in `value` is not JSON, such as a path, an array or a NaN.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"manifest: {error}; expected plain JSON values") from error


def manifest_json(manifest: Manifest) -> str:
    """Text of manifest.json: the manifest and its digest, indented for people."""
    table = asdict(manifest) | {"digest": manifest.digest}
    return json.dumps(table, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def build_manifest(table: Mapping[str, Any]) -> Manifest:
    """A manifest exactly as it will be read back from its JSON (tuples as lists, keys as text).

    Raises:
        ArtifactError: a field is missing, unknown or of the wrong type.
    """
    try:
        return load_config(Manifest, json.loads(canonical_json(table)), where="manifest")
    except ConfigError as error:
        raise ArtifactError(str(error)) from error


def read_manifest(root: Path) -> Manifest:
    """Read `root`/manifest.json and check its digest; the other files are not looked at.

    Raises:
        ArtifactError: there is none, or it is truncated, invalid, tampered with, or of another schema.
    """
    path = root / MANIFEST_NAME
    content = _read_bytes(path)
    table = _parse_table(path, content)
    if table.get("schema_version") != SCHEMA_VERSION:
        found = table.get("schema_version")
        raise ArtifactError(f"{path}: schema_version {found!r}; expected {SCHEMA_VERSION}; use a dmedge that writes it")
    want = table.pop("digest", None)
    try:
        manifest = build_manifest(table)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; make the artifact again") from error
    if manifest.digest != want or manifest_json(manifest).encode("utf-8") != content:
        raise ArtifactError(
            f"{path}: was changed: its digest is {manifest.digest[:12]}; expected {str(want)[:12]} "
            "and the very bytes that dmedge writes; make the artifact again"
        )
    return manifest


def _read_bytes(path: Path) -> bytes:
    if path.is_symlink():
        raise ArtifactError(f"{path}: a symbolic link; expected a regular file; copy the artifact with its files")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}: {error.strerror}; expected a finished artifact, which always holds {MANIFEST_NAME}"
        ) from error


def _parse_table(path: Path, content: bytes) -> dict[str, Any]:
    try:
        table = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}): truncated or overwritten; make the artifact again") from error
    if not isinstance(table, dict):
        raise ArtifactError(f"{path}: holds {type(table).__name__}; expected a JSON object; make the artifact again")
    return table
