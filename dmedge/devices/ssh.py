"""A board that OpenSSH reaches, such as a Raspberry Pi: `ssh:user@host[:port]`."""

import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from dmedge.devices.native_runner import NativeRunner, build_runner, compiler_needs
from dmedge.devices.needs import Need, check_needs
from dmedge.devices.remote import RemoteWork, ask_machine, read_state, remote_facts
from dmedge.devices.wheels import Machine
from dmedge.errors import ConfigError, DmedgeError
from dmedge.manifest import Runtime

CLIENT = Need("ssh", "openssh-client")
CONFIG = "DMEDGE_SSH_CONFIG"  # a configuration file of OpenSSH in the place of the usual ones
FORM = "ssh:[user@]host[:port]"
_ADDRESS = re.compile(r"(?P<host>(?:[\w.-]+@)?(?:[\w.-]+|\[[0-9a-fA-F:.]+(?:%\w+)?\]))(?::(?P<port>\d+))?")


@dataclass(frozen=True)
class SshDevice:
    """A Linux machine with a shell; keys and names are those of OpenSSH's own configuration."""

    host: str  # or user@host, or a name from the configuration
    port: int | None = None

    can_time: ClassVar[bool] = True

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read `[user@]host[:port]`.

        Raises:
            ConfigError: it is written otherwise.
        """
        found = _ADDRESS.fullmatch(address)
        if found is None or found["host"].startswith("-") or "@-" in found["host"]:
            raise ConfigError(f"no device {f'ssh:{address}'!r}; expected {FORM}, such as ssh:pi@raspberrypi.local")
        return cls(found["host"].replace("[", "").replace("]", ""), int(found["port"]) if found["port"] else None)

    @property
    def name(self) -> str:
        """See `Device.name`."""
        return f"ssh:{self.host}" + (f":{self.port}" if self.port else "")

    @cached_property
    def machine(self) -> Machine:
        """See `Device.machine`; the device is asked once."""
        return ask_machine(self.name, self.shell)

    @property
    def needs(self) -> tuple[Need, ...]:
        """See `Device.needs`."""
        return (CLIENT,)

    def runner(self, runtime: Runtime) -> NativeRunner:
        """See `Device.runner`."""
        return build_runner(runtime, self.machine)

    def open(self) -> RemoteWork:
        """See `Device.open`."""
        check_needs((*self.needs, *compiler_needs(self.machine)))
        return RemoteWork(self.name, self.shell, "${TMPDIR:-/tmp}")

    def facts(self) -> dict[str, object]:
        """See `Device.facts`."""
        return remote_facts(read_state(self.name, self.shell))

    def shell(self, script: str) -> list[str]:
        """The command that has a shell there run `script`: never asking, over one connection for all."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": f"{_sockets()}/%C",
            "ControlPersist": "60",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        config = ["-F", os.environ[CONFIG]] if os.environ.get(CONFIG) else []
        port = ["-p", str(self.port)] if self.port else []
        return ["ssh", *config, *words, *port, "-T", self.host, f"exec /bin/sh -c {shlex.quote(script)}"]


def _sockets() -> Path:
    """Folder for the sockets of open connections; their paths must be short."""
    folder = Path(tempfile.gettempdir()) / f"dmedge-ssh-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise DmedgeError(f"{folder}: belongs to somebody else; expected a folder of one's own; set TMPDIR to another")
    return folder
