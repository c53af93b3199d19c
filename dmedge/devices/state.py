"""What a machine tells of its own state, in the files in which Linux keeps it."""

from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

PATTERNS = (
    "/proc/cpuinfo",
    "/proc/loadavg",
    "/proc/meminfo",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/powercap/*/name",
    "/sys/class/powercap/*/energy_uj",
    "/sys/class/powercap/*/max_energy_range_uj",
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
        "load_average": _number((files.get("/proc/loadavg") or "").partition(" ")[0]),
        "memory_bytes": _memory_bytes(files.get("/proc/meminfo") or ""),
        "energy": _energy(files),
    }


def energy_between(before: Mapping[str, object], after: Mapping[str, object]) -> float | None:
    """Joules that the processor took between two states; None where there is no counter.

    Args:
        before: facts of a machine.
        after: facts of the same machine, so soon that no counter began anew twice: minutes.
    """
    start, end = before.get("energy"), after.get("energy")
    if not isinstance(start, Mapping) or not isinstance(end, Mapping) or start.keys() != end.keys():
        return None
    taken = [end[zone]["joules"] - start[zone]["joules"] for zone in end]
    ranges = [end[zone]["range_joules"] for zone in end]
    return float(sum(joules if joules >= 0 else joules + span for joules, span in zip(taken, ranges, strict=True)))


def _energy(files: Mapping[str, str]) -> dict[str, dict[str, float]] | None:
    """Counters of whole processors (RAPL) by zone; parts of them, and other ways to the same counter, are left out.

    Source: Documentation/power/powercap/powercap.rst of Linux.
    """
    found = {}
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        zone, joules = folder.rpartition("/")[2], _number(content)
        is_whole = (files.get(f"{folder}/name") or "").startswith("package") and "mmio" not in zone
        span = _number(files.get(f"{folder}/max_energy_range_uj") or "")
        if name == "energy_uj" and is_whole and joules is not None and span is not None:
            found[zone] = {"joules": joules / 1e6, "range_joules": span / 1e6}
    return found or None


def _first(files: Mapping[str, str], pattern: str) -> str:
    return next((content for path, content in sorted(files.items()) if fnmatch(path, pattern)), "")


def _most(files: Mapping[str, str], pattern: str) -> float | None:
    """The greatest of several numbers that are given in thousandths: the fastest core, the hottest zone."""
    found = [_number(content) for path, content in files.items() if fnmatch(path, pattern)]
    return max((number / 1e3 for number in found if number is not None), default=None)


def _number(text: str) -> float | None:
    with suppress(ValueError):
        return float(text)
    return None


def _memory_bytes(text: str) -> int | None:
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024  # always given in kB
    return None
