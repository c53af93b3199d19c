"""What the machine tells, read from made-up system files."""

from pathlib import Path

from dmedge.devices.local import local_facts


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_facts_are_read_in_plain_units(tmp_path: Path) -> None:
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n")
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "41000\n")
    write(tmp_path / "sys/class/thermal/thermal_zone1/temp", "52500\n")
    write(tmp_path / "proc/loadavg", "0.25 0.10 0.05 1/99 1234\n")
    write(tmp_path / "proc/meminfo", "MemTotal:       2048 kB\nMemFree: 10 kB\n")
    facts = local_facts(tmp_path)
    assert (facts["governor"], facts["frequency_mhz"], facts["temperature_c"]) == ("performance", 2400.0, 52.5)
    assert (facts["load_average"], facts["memory_bytes"]) == (0.25, 2048 * 1024)


def test_what_is_not_told_is_none_and_never_guessed(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "not a number\n")
    facts = local_facts(tmp_path)
    for name in ("governor", "frequency_mhz", "temperature_c", "load_average", "memory_bytes"):
        assert facts[name] is None
    assert isinstance(facts["cores"], int)
