"""An Android device that adb reaches: `adb:SERIAL`, as `adb devices` calls it.

Runners made here are of Linux with glibc, which Android has not: they bring its loader and libraries along.
A runner built with Android's NDK, with everything linked into it, needs none of that.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from dmedge.devices.native_runner import LIBRARIES, NativeRunner, build_runner, compiler_needs
from dmedge.devices.needs import Need, check_needs
from dmedge.devices.remote import RemoteWork, ask_machine, read_state, remote_facts
from dmedge.devices.wheels import Machine, runtime_version
from dmedge.errors import ConfigError, DmedgeError
from dmedge.manifest import Runtime

CLIENT = Need("adb", "adb")
FORM = "adb:SERIAL"
FOLDER = "${TMPDIR:-/data/local/tmp}"  # where a shell of Android may execute files
LOADERS: Mapping[Machine, str] = {"aarch64": "ld-linux-aarch64.so.1", "x86_64": "ld-linux-x86-64.so.2"}
C_LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "libgcc_s.so.1",
)
PROPERTIES = {
    "model": "ro.product.model",
    "soc": "ro.soc.model",
    "android": "ro.build.version.release",
    "android_api": "ro.build.version.sdk",
}


@dataclass(frozen=True)
class AdbDevice:
    """An Android device on a cable or on the network."""

    serial: str
    own_runner: Path | None = None  # built by its owner for this device

    can_time: ClassVar[bool] = True

    @classmethod
    def parse(cls, serial: str) -> Self:
        """Read a serial number.

        Raises:
            ConfigError: it is none.
        """
        if not serial or serial.startswith("-") or any(letter.isspace() for letter in serial):
            raise ConfigError(f"no device {f'adb:{serial}'!r}; expected {FORM}; adb devices lists them")
        return cls(serial)

    def with_runner(self, path: Path) -> "AdbDevice":
        """The same with a runner of one's own."""
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; expected a runner built for {self.name}")
        return replace(self, own_runner=path)

    @property
    def name(self) -> str:
        """See `Device.name`."""
        return f"adb:{self.serial}"

    @cached_property
    def machine(self) -> Machine:
        """See `Device.machine`; the device is asked once."""
        return ask_machine(self.name, self.shell)

    @property
    def needs(self) -> tuple[Need, ...]:
        """See `Device.needs`."""
        return (CLIENT,)

    def runner(self, runtime: Runtime) -> NativeRunner:
        """See `Device.runner`; with the C libraries, unless it is of the device's owner."""
        if self.own_runner is not None:
            return NativeRunner(runtime, runtime_version(runtime), self.machine, {"runner": self.own_runner})
        made = build_runner(runtime, self.machine)
        return replace(made, files={**made.files, **c_library_files(self.machine)})

    def open(self) -> RemoteWork:
        """See `Device.open`."""
        check_needs((*self.needs, *(compiler_needs(self.machine) if self.own_runner is None else ())))
        loader = (f"./{LIBRARIES}/{LOADERS[self.machine]}", "--library-path", LIBRARIES)
        return RemoteWork(self.name, self.shell, FOLDER, wrapper=loader if self.own_runner is None else ())

    def facts(self) -> dict[str, object]:
        """See `Device.facts`."""
        asked = {key: f"getprop {name}" for key, name in PROPERTIES.items()} | {"battery": "dumpsys battery"}
        state = read_state(self.name, self.shell, asked)
        facts, battery = remote_facts(state), battery_facts(state.get("battery", ""))
        named = {key: state.get(key) or facts.get(key) for key in PROPERTIES}  # some have no ro.soc.model
        if facts["temperature_c"] is None and battery:  # most show their thermal zones to no shell
            facts["temperature_c"] = battery["temperature_c"]
        return facts | named | {"battery": battery}

    def shell(self, script: str) -> list[str]:
        """The command that has the shell there run `script`."""
        return ["adb", "-s", self.serial, "shell", "-T", script]


def battery_facts(told: str) -> dict[str, object] | None:
    """Level in percent, temperature in degrees Celsius and whether it is charged, by `dumpsys battery`."""
    table = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in told.splitlines())}
    if not table.get("level", "").isdigit():
        return None
    tenths = table.get("temperature", "")
    return {
        "level_percent": int(table["level"]),
        "temperature_c": int(tenths) / 10 if tenths.isdigit() else None,
        "is_charging": any(table.get(f"{source} powered") == "true" for source in ("AC", "USB", "Wireless", "Dock")),
    }


def c_library_files(machine: Machine) -> dict[str, Path]:
    """Loader and C libraries of the compiler for `machine`, by their names in the work directory.

    Raises:
        DmedgeError: the compiler is missing, or does not tell where they are.
    """
    needs = compiler_needs(machine)
    check_needs(needs)
    files = {}
    for name in (LOADERS[machine], *C_LIBRARIES):
        command = [needs[0].command, f"-print-file-name={name}"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(told).is_absolute():
            raise DmedgeError(f"{needs[0].command} knows no {name}; expected it beside the compiler; install it again")
        files[f"{LIBRARIES}/{name}"] = Path(told)
    return files
