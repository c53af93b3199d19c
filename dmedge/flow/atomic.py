"""Files that are either the old or the new, never half of one."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


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
