"""This machine as a device."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dmedge.devices.energy import RAILS_KEY, ask_rails
from dmedge.devices.folder import FolderWork
from dmedge.devices.native_runner import NativeRunner, build_runner, compiler_needs
from dmedge.devices.needs import Need, check_needs
from dmedge.devices.state import read_files, state_facts
from dmedge.devices.wheels import Machine, host_machine
from dmedge.environment import host_facts
from dmedge.manifest import Runtime


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """This machine, by native runners as a phone has them, without Python."""

    name: ClassVar[str] = "local"
    can_time: ClassVar[bool] = True

    @property
    def machine(self) -> Machine:
        """See `Device.machine`."""
        return host_machine()

    @property
    def needs(self) -> tuple[Need, ...]:
        """See `Device.needs`."""
        return compiler_needs(self.machine)

    def runner(self, runtime: Runtime) -> NativeRunner:
        """See `Device.runner`."""
        return build_runner(runtime, self.machine)

    def open(self) -> FolderWork:
        """See `Device.open`."""
        check_needs(self.needs)
        return FolderWork(self.name)

    def facts(self) -> dict[str, object]:
        """See `Device.facts`."""
        return local_facts()


def local_facts(root: Path = Path("/")) -> dict[str, object]:
    """Facts that a latency figure of this machine must carry; None for what it does not tell.

    Args:
        root: where `proc` and `sys` are looked for.
    """
    return host_facts() | state_facts(read_files(root) | {RAILS_KEY: ask_rails()})
