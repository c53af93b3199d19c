"""Artifacts: immutable directories that say what they are, written whole or not at all."""

import errno
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from dmedge.config import near_match
from dmedge.environment import tool_versions
from dmedge.errors import ArtifactError
from dmedge.external_data import check_external_data
from dmedge.files import check_file, digest_file, list_files, sync, sync_tree
from dmedge.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    FileDigest,
    Kind,
    Manifest,
    Program,
    TensorSpec,
    build_manifest,
    manifest_json,
    read_manifest,
)

__all__ = [
    "RUNS",
    "SHIPPED",
    "Artifact",
    "Draft",
    "FileDigest",
    "Kind",
    "Manifest",
    "Program",
    "TensorSpec",
    "download_bytes",
    "find_artifacts",
    "load_artifact",
    "new_artifact",
    "newest_artifact",
    "program_bytes",
]

SHIPPED = Path(__file__).parent / "checkpoints"  # artifacts that come with the package, called by name
RUNS = Path("runs")  # where commands put artifacts and look for them

MAKERS = {"checkpoint": "dmedge train", "bundle": "dmedge export", "evidence": "dmedge verify", "index": "dmedge index"}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A directory that holds manifest.json and every file it names, and nothing else."""

    root: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Digest of the manifest, and through it of every file."""
        return self.manifest.digest

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.root.name

    def file(self, name: str) -> Path:
        """Path of one of its files.

        Raises:
            ArtifactError: the manifest names no such file.
        """
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.root}: no file {name!r}{near_match(name, sorted(self.manifest.files))}")
        return self.root / name

    def sibling(self, suffix: str) -> Path:
        """Where an artifact made from this one goes by default: NAME-suffix, beside it.

        What is made from a shipped artifact goes below `runs/`, not into the installed package.
        """
        folder = RUNS if self.root.parent == SHIPPED else self.root.parent
        return folder / f"{self.root.name}-{suffix}"


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact being written: put files below `path`, then call `finish`."""

    out: Path
    path: Path

    def finish(
        self,
        *,
        kind: Kind,
        stage: str,
        config: Mapping[str, object],
        parents: Mapping[str, str] | None = None,
        programs: Sequence[Program] = (),
        precision: Mapping[str, str] | None = None,
        languages: Sequence[str] = (),
        summary: Mapping[str, object] | None = None,
        tools: Mapping[str, str] | None = None,
        target: str | None = None,
        seal: Callable[[Path], None] | None = None,
    ) -> Artifact:
        """Write the manifest and move the directory to `out`, in one step that either happens or not.

        Args:
            config: exact settings of the stage, plain JSON values only (`dataclasses.asdict`).
            parents: role -> digest of every artifact that was read.
            tools: package -> version [default: dmedge and every package that can change an artifact].
            seal: signs the manifest in the directory that it is given, see `dmedge.signature`.

        Raises:
            ArtifactError: a file is a link, a value is not JSON, or `out` has come into being meanwhile.
        """
        manifest = build_manifest(
            {
                "kind": kind,
                "stage": stage,
                "config": dict(config),
                "files": {name: asdict(digest_file(self.path / name)) for name in list_files(self.path)},
                "parents": dict(parents or {}),
                "programs": [asdict(program) for program in programs],
                "precision": dict(precision or {}),
                "languages": list(languages),
                "summary": dict(summary or {}),
                "tools": dict(tool_versions() if tools is None else tools),
                "target": target,
            }
        )
        (self.path / MANIFEST_NAME).write_text(manifest_json(manifest), encoding="utf-8")
        if seal is not None:
            seal(self.path)
        sync_tree(self.path)
        try:
            self.path.rename(self.out)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise ArtifactError(
                    f"{self.out}: exists since this one was begun; expected no such directory; "
                    "nothing was written: choose another --out"
                ) from error
            raise
        sync(self.out.parent)
        return Artifact(self.out, manifest)


@contextmanager
def new_artifact(out: Path) -> Iterator[Draft]:
    """Write an artifact into a hidden directory beside `out`; `Draft.finish` moves it there.

    Leaving the block without `finish`, or by any exception, removes all that was written.

    Raises:
        ArtifactError: `out` exists already, cannot be created, or the disk is full.
    """
    if os.path.lexists(out):
        raise ArtifactError(f"{out}: exists already; expected a new directory; choose another --out or remove it")
    missing = [folder for folder in out.absolute().parents if not folder.exists()]
    draft = Draft(out, out.parent / f".{out.name}.tmp-{uuid4().hex[:8]}")
    try:
        draft.path.mkdir(parents=True)
        yield draft
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArtifactError(
                f"{out}: the disk is full; nothing was written; make room and run the same command again"
            ) from error
        if not draft.path.exists() and not os.path.lexists(out):
            raise ArtifactError(f"{out}: cannot be created: {error.strerror}; choose another --out") from error
        raise
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
        for folder in missing:  # nearest first; one that holds something stays
            with suppress(OSError):
                folder.rmdir()


def load_artifact(path: str | Path, *, kind: Kind | None = None) -> Artifact:
    """Open an artifact after checking its manifest and the size and sha256 of every file.

    A signature may lie beside the files of a bundle; `dmedge.signature` checks it.

    Args:
        path: its directory, or the name of one that ships with dmedge where no such directory exists.
        kind: what it must be [default: anything].

    Raises:
        ArtifactError: it is missing, damaged, holds an unexpected file, or is of another kind.
    """
    root = Path(path)
    if not root.exists() and (SHIPPED / root.name).is_dir() and root.name == str(path):
        root = SHIPPED / root.name
    if root.name in ("", ".."):
        root = root.resolve()
    if not root.is_dir():
        raise ArtifactError(f"{root}: no such directory; expected {_a(kind)}; name one, or run {_maker(kind)}")
    manifest = read_manifest(root)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{root}: found {_a(manifest.kind)}; expected {_a(kind)}; run {_maker(kind)}")
    extras = {MANIFEST_NAME, SIGNATURE_NAME} if manifest.kind == "bundle" else {MANIFEST_NAME}
    found = set(list_files(root)) - extras
    for name in sorted(found - set(manifest.files)):
        raise ArtifactError(f"{root / name}: not named in the manifest; expected nothing else; remove it")
    for name, want in manifest.files.items():
        if name not in found:
            raise ArtifactError(f"{root / name}: missing; expected {want.size_bytes} bytes; make the artifact again")
        check_file(root / name, want)
    for name in sorted({program.file for program in manifest.programs if program.runtime == "onnxruntime"}):
        check_external_data(root, name, manifest.files)
    return Artifact(root, manifest)


def newest_artifact(
    kind: Kind, *, root: Path = RUNS, accept: Callable[[Manifest], bool] = lambda manifest: True
) -> Artifact:
    """The most recently written artifact of `kind` below `root`, or else one that ships with dmedge.

    Args:
        accept: whether an artifact with this manifest will do.

    Raises:
        ArtifactError: there is none, or a newer one is damaged.
    """
    for folder in (*find_artifacts(root), *find_artifacts(SHIPPED)):
        manifest = read_manifest(folder)
        if manifest.kind == kind and accept(manifest):
            return load_artifact(folder, kind=kind)
    raise ArtifactError(f"{root}: holds no fitting {kind}; expected one; name one, or run {_maker(kind)}")


def find_artifacts(root: Path) -> list[Path]:
    """Directories below `root` (or `root` itself) that hold a manifest, newest first.

    Hidden ones are passed over, and so is BUNDLE.app, which holds a copy of its bundle.
    """
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".app"))
        if MANIFEST_NAME in files:
            folders.clear()  # an artifact holds no artifacts
            found.append(Path(folder))
    return sorted(found, key=lambda path: (-(path / MANIFEST_NAME).stat().st_mtime_ns, path))


def program_bytes(artifact: Artifact, runtime: str | None = None) -> int:
    """Size of the programs alone: the files that make them up, and all else below programs/.

    Args:
        runtime: whose programs count [default: all].
    """
    manifest, files = artifact.manifest, artifact.manifest.files
    owners = [(program.runtime, name) for program in manifest.programs for name in manifest.program_files(program)]
    named = {name for owner, name in owners if runtime in (None, owner)}
    others = {name for _, name in owners} - named
    counted = [name for name in files if name in named or (name.startswith("programs/") and name not in others)]
    return sum(files[name].size_bytes for name in counted)


def download_bytes(artifact: Artifact) -> int:
    """Size of the whole artifact as a deflated zip archive, which is what an app package carries."""
    with tempfile.TemporaryFile() as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            signature = [SIGNATURE_NAME] if (artifact.root / SIGNATURE_NAME).is_file() else []
            for name in (MANIFEST_NAME, *signature, *sorted(artifact.manifest.files)):
                archive.writestr(zipfile.ZipInfo(name), (artifact.root / name).read_bytes(), zipfile.ZIP_DEFLATED)
        return stream.tell()


def _a(kind: Kind | None) -> str:
    return {None: "an artifact", "evidence": "evidence", "index": "an index"}.get(kind, f"a {kind}")


def _maker(kind: Kind | None) -> str:
    return MAKERS[kind] if kind else "dmedge train"
