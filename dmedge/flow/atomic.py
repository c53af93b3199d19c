"""Files that are either the old or the new, never half of one, and folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

from dmedge.errors import ArtifactError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have `write` fill a new file beside `path`, then put it in place of whatever is there.

    Raises:
        OSError: the folder or the file cannot be written; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
        part.chmod(0o666 & ~_umask())  # mkstemp lets nobody else read
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    umask = os.umask(0)  # the only way to read it is to set it
    os.umask(umask)
    return umask


def check_new(out: Path) -> None:
    """Whether a folder can be created.

    Raises:
        ArtifactError: something stands there.
    """
    if out.exists() or out.is_symlink():
        raise ArtifactError(f"{out}: exists already; expected a new folder; choose another --out or remove it")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, which becomes `out` if all goes well.

    Raises:
        ArtifactError: something stands there.
    """
    check_new(out)
    part = out.parent / f".{out.name}.tmp-{uuid4().hex[:8]}"
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
