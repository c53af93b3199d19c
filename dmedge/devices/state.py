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
    return {
        "governor": _first(files, "*/scaling_governor") or None,
        "frequency_mhz": _most(files, "*/scaling_cur_freq"),
        "temperature_c": _most(files, "*/thermal_zone*/temp"),
        "load_average": energy.number_in((files.get("/proc/loadavg") or "").partition(" ")[0]),
        "memory_bytes": _memory_bytes(files.get("/proc/meminfo") or ""),
        **energy.energy_facts(files),
    }


def _first(files: Mapping[str, str], pattern: str) -> str:
    return next((content for path, content in sorted(files.items()) if fnmatch(path, pattern)), "")


def _most(files: Mapping[str, str], pattern: str) -> float | None:
    """The greatest of several numbers that are given in thousandths: the fastest core, the hottest zone."""
    found = [energy.number_in(content) for path, content in files.items() if fnmatch(path, pattern)]
    return max((number / 1e3 for number in found if number is not None), default=None)


def _memory_bytes(text: str) -> int | None:
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024  # always given in kB
    return None
