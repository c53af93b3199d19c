"""What a device is: a place with a work directory, to push files to, run a command in and pull files from."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from dmedge.devices.native_runner import NativeRunner
from dmedge.devices.needs import Need
from dmedge.devices.wheels import Machine
from dmedge.manifest import Runtime


class Conversation(Protocol):
    """A command that runs on the device and answers each line with a line."""

    def ask(self, question: str, doing: str, timeout_s: float) -> str:
        """Send one line, return the one that comes back.

        Args:
            doing: for the message, such as "while running encode_text".

        Raises:
            DmedgeError: the command has ended, however it did, or is ended now because it does not answer in time.
        """

    def close(self) -> None:
        """End the command; closing twice is fine."""


class WorkDirectory(Protocol):
    """A directory of its own on the device; nothing of it is left when it is closed."""

    def push(self, source: Path, name: str) -> None:
        """Have a file of this machine there under `name`, a relative path; folders are made."""

    def pull(self, name: str, target: Path) -> None:
        """Copy a file from there to `target`.

        Raises:
            DmedgeError: there is none.
        """

    def remove(self, name: str) -> None:
        """Remove a file or a folder there, if it exists."""

    def start(self, command: Sequence[str]) -> Conversation:
        """Start a command in the directory, with the libraries in its `lib`.

        Raises:
            DmedgeError: the device cannot.
        """

    def close(self) -> None:
        """Remove the directory; closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Device(Protocol):
    """A place where native runners run."""

    @property
    def name(self) -> str:
        """As the command line calls it, such as "qemu:cortex-a76"."""

    @property
    def machine(self) -> Machine:
        """Its processor."""

    @property
    def can_time(self) -> bool:
        """Whether time and memory measured there say anything; an emulator's do not."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Programs of this machine that reach it."""

    def runner(self, runtime: Runtime) -> NativeRunner:
        """The runner of a runtime that runs there.

        Raises:
            DmedgeError: there is none, or it cannot be built.
        """

    def open(self) -> WorkDirectory:
        """Make a new work directory.

        Raises:
            DmedgeError: the device is not reached, or something that it needs is missing.
        """

    def facts(self) -> dict[str, object]:
        """What a figure measured there must carry; None for what the device does not tell."""
