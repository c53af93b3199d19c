"""Files of an artifact: which there are, what is in them, and that the disk holds them."""

import hashlib
import os
from pathlib import Path

from dmedge.errors import ArtifactError
from dmedge.manifest import FileDigest


def list_files(root: Path) -> list[str]:
    """POSIX paths of all files below `root`, sorted.

    Raises:
        ArtifactError: something is neither a regular file nor a directory.
    """
    names = []
    for path in root.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"{path}: a link or special file; expected regular files only; put a copy there")
        if path.is_file():
            names.append(path.relative_to(root).as_posix())
    return sorted(names)


def digest_file(path: Path) -> FileDigest:
    """Size in bytes and sha256 of one file."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileDigest(path.stat().st_size, sha256)


def check_file(path: Path, want: FileDigest) -> None:
    """Compare one file with what a manifest says of it.

    Raises:
        ArtifactError: its size or its sha256 differs.
    """
    got = digest_file(path)
    if got.size_bytes != want.size_bytes:
        raise ArtifactError(f"{path}: {got.size_bytes} bytes; expected {want.size_bytes}; make the artifact again")
    if got.sha256 != want.sha256:
        raise ArtifactError(
            f"{path}: sha256 {got.sha256[:12]} differs from the manifest's {want.sha256[:12]}; make the artifact again"
        )


def sync_tree(root: Path) -> None:
    """Have the disk hold every file and directory of `root` before anything that depends on them."""
    for name in list_files(root):
        sync(root / name)
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        sync(folder)
    sync(root)


def sync(path: Path) -> None:
    """Have the disk hold one file or directory."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
