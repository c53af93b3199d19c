"""A work directory on this machine, whether its commands run here or in an emulator."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from dmedge.devices.conversation import ProcessConversation
from dmedge.devices.native_runner import LIBRARIES
from dmedge.errors import DmedgeError

PREFIX = "dmedge-work-"


class FolderWork:
    """A folder for temporary files; what is pushed into it stands there as a link."""

    def __init__(self, device: str, wrapper: Sequence[str] = ()) -> None:
        """Make the folder.

        Args:
            device: its name, for messages.
            wrapper: command and options that every command is handed to, such as an emulator.
        """
        self._device, self._wrapper = device, tuple(wrapper)
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._end = weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)

    def push(self, source: Path, name: str) -> None:
        """See `WorkDirectory.push`."""
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source.resolve())

    def pull(self, name: str, target: Path) -> None:
        """See `WorkDirectory.pull`."""
        try:
            shutil.copyfile(self.root / name, target)
        except OSError as error:
            raise DmedgeError(f"{self._device}: {name}: {error.strerror}; expected a file that was written") from error

    def remove(self, name: str) -> None:
        """See `WorkDirectory.remove`."""
        place = self.root / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def start(self, command: Sequence[str]) -> ProcessConversation:
        """See `WorkDirectory.start`."""
        path = os.pathsep.join([LIBRARIES, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
        return ProcessConversation(
            [*self._wrapper, *command],
            name=f"{self._device}: {Path(command[0]).name}",
            folder=self.root,
            environment={"LD_LIBRARY_PATH": path},
        )

    def close(self) -> None:
        """See `WorkDirectory.close`."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
