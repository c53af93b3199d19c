"""Programs of the system that a device needs."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from dmedge.errors import DmedgeError


@dataclass(frozen=True, slots=True)
class Need:
    """A program, and the Debian package that brings it."""

    command: str
    package: str

    @property
    def is_met(self) -> bool:
        """Whether the program is on the PATH."""
        return shutil.which(self.command) is not None


def missing(needs: Iterable[Need]) -> tuple[Need, ...]:
    """Those that are not met."""
    return tuple(need for need in needs if not need.is_met)


def install_command(needs: Iterable[Need]) -> str:
    """What installs the packages of `needs`."""
    packages = dict.fromkeys(need.package for need in needs)
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def check_needs(needs: Iterable[Need]) -> None:
    """Look for programs.

    Raises:
        DmedgeError: one is missing; the message names the command that installs it.
    """
    found = missing(needs)
    if found:
        names = ", ".join(need.command for need in found)
        raise DmedgeError(f"no {names} on the PATH; expected it; run: {install_command(found)}")
