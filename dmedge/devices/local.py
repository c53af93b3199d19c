"""This machine as a device, and what it tells of its own state, read from the files in which Linux keeps it."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dmedge.devices.folder import FolderWork
from dmedge.devices.native_runner import compiler_needs
from dmedge.devices.needs import Need, check_needs
from dmedge.devices.wheels import Machine, host_machine
from dmedge.environment import host_facts


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
    cpu = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return host_facts() | {
        "governor": _read(cpu / "scaling_governor"),
        "frequency_mhz": _scaled(_read(cpu / "scaling_cur_freq"), 1e-3),
        "temperature_c": _temperature(root / "sys/class/thermal"),
        "load_average": _load_average(root / "proc/loadavg"),
        "memory_bytes": _memory_bytes(root / "proc/meminfo"),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):  # absent, or refused to ordinary users
        return None


def _scaled(text: str | None, factor: float) -> float | None:
    with suppress(ValueError):
        return float(text) * factor if text is not None else None
    return None


def _temperature(folder: Path) -> float | None:
    """The hottest zone, in degrees Celsius."""
    zones = [_scaled(_read(path), 1e-3) for path in sorted(folder.glob("thermal_zone*/temp"))]
    return max((zone for zone in zones if zone is not None), default=None)


def _load_average(path: Path) -> float | None:
    """Mean number of processes that wanted a core in the last minute."""
    return _scaled((_read(path) or "").partition(" ")[0], 1.0)


def _memory_bytes(path: Path) -> int | None:
    for line in (_read(path) or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024  # always given in kB
    return None
