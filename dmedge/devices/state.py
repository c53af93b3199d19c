"""What a machine tells of its own state, in the files in which Linux keeps it."""

from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from dmedge.devices import energy

PATTERNS = (
    "/proc/cpuinfo",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/self/status",  # of whoever reads it, whose cores are those of the runner that it starts
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/sys/devices/soc0/family",
    "/sys/devices/soc0/machine",
    "/etc/os-release",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq",
    "/sys/class/thermal/thermal_zone*/temp",
    *energy.PATTERNS,
)


def read_files(root: Path = Path("/")) -> dict[str, str]:
    """Content of the files of this machine that `PATTERNS` name, by path; those that cannot be read are left out.

    Args:
        root: where they are looked for.
    """
    found = {}
    for pattern in PATTERNS:
        for path in sorted(root.glob(pattern[1:])):
            with suppress(OSError, UnicodeDecodeError):  # refused to ordinary users
                found[f"/{path.relative_to(root)}"] = path.read_text(encoding="utf-8").strip()
    return found


def state_facts(files: Mapping[str, str]) -> dict[str, object]:
    """The state that a latency figure must carry; None for what the files do not tell.

    Args:
        files: content by path.
    """
    kilobytes = _value(files, "/proc/meminfo", "MemTotal:")  # always in kB
    frequencies = _thousandths(files, "*/scaling_cur_freq")
    return {
        "model": _words(files, "/proc/device-tree/model")[0] or None,
        "soc": _soc(files),
        "os": _value(files, "/etc/os-release", "PRETTY_NAME=").strip("\"'") or None,
        "affinity": cores_in(_value(files, "/proc/self/status", "Cpus_allowed_list:")),
        "governor": _first(files, "*/scaling_governor") or None,
        "frequency_mhz": max(frequencies, default=None),
        "frequencies_mhz": frequencies or None,
        "temperature_c": max(_thousandths(files, "*/thermal_zone*/temp"), default=None),
        "load_average": energy.number_in((files.get("/proc/loadavg") or "").partition(" ")[0]),
        "memory_bytes": int(kilobytes.split()[0]) * 1024 if kilobytes else None,
        **energy.energy_facts(files),
    }


def _first(files: Mapping[str, str], pattern: str) -> str:
    return next((content for path, content in sorted(files.items()) if fnmatch(path, pattern)), "")


def _thousandths(files: Mapping[str, str], pattern: str) -> list[float]:
    """Different numbers that are given in thousandths, ascending: those of all cores, of all zones."""
    found = [energy.number_in(content) for path, content in files.items() if fnmatch(path, pattern)]
    return sorted({number / 1e3 for number in found if number is not None})


def _words(files: Mapping[str, str], path: str) -> list[str]:
    """The strings of a property of the device tree, each ended by a zero byte; an empty one where it is not told."""
    return [word.strip() for word in files.get(path, "").strip("\0 \n").split("\0")]


def _soc(files: Mapping[str, str]) -> str | None:
    """Family and name of the chip, or what the device tree calls it, after the board.

    Source: Documentation/ABI/testing/sysfs-devices-soc of Linux; section 2.3.1 of the Devicetree Specification 0.4:
    the most specific name comes first.
    """
    told = [files.get(f"/sys/devices/soc0/{name}", "").strip() for name in ("family", "machine")]
    return " ".join(filter(None, told)) or _words(files, "/proc/device-tree/compatible")[-1] or None


def cores_in(text: str) -> list[int] | None:
    """Numbers of the cores in a list as Linux writes it, such as 0-3,6; None if it is none."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return None
        found += range(int(first), int(last or first) + 1)
    return found


def _value(files: Mapping[str, str], path: str, key: str) -> str:
    """What follows a word at the beginning of a line; "" where there is no such line."""
    lines = files.get(path, "").splitlines()
    return next((line.removeprefix(key).strip() for line in lines if line.startswith(key)), "")
