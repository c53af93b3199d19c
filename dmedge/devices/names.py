"""The devices by their names on the command line."""

from collections.abc import Callable, Mapping
from pathlib import Path

from dmedge.config import did_you_mean
from dmedge.devices.adb import FORM as ADB_FORM
from dmedge.devices.adb import AdbDevice
from dmedge.devices.browser import NAMES, BrowserDevice
from dmedge.devices.emulated import CPUS, EmulatedDevice
from dmedge.devices.local import LocalDevice
from dmedge.devices.protocol import Device
from dmedge.devices.ssh import FORM as SSH_FORM
from dmedge.devices.ssh import SshDevice
from dmedge.errors import ConfigError, DmedgeError

DEVICES = {"local": "this machine"}  # that programs can be timed on
REACHED = {
    SSH_FORM: "a board with Linux, reached by OpenSSH; keys and names are those of its configuration",
    ADB_FORM: "an Android device, as adb devices lists it",
}
EMULATED = {f"qemu:{cpu}": f"emulated arm64, {facts.description}; parity, no times" for cpu, facts in CPUS.items()}

WEB, WEBGPU = NAMES["wasm"], NAMES["webgpu"]
BROWSERS = {  # that run bundles of the target web alone
    WEB: "headless Chromium, for bundles of the target web",
    WEBGPU: "the same on WebGPU, for float32 bundles",
}

_MAKERS: Mapping[str, Callable[[], Device]] = {
    "local": LocalDevice,
    **{f"qemu:{cpu}": lambda cpu=cpu: EmulatedDevice(cpu) for cpu in CPUS},  # type: ignore[misc]
}
_BROWSERS = {device.name: device for device in map(BrowserDevice, NAMES)}
_PARSERS: Mapping[str, Callable[[str], Device]] = {"ssh": SshDevice.parse, "adb": AdbDevice.parse}


def check_replay(name: str, runner: Path | None = None) -> str:
    """Return `name` if a conformance pack can be replayed there, by a native runner of one's own if one is given.

    Raises:
        ConfigError: it cannot.
    """
    if name not in BROWSERS:
        find_device(name, runner)
    elif runner is not None:
        raise _takes_no_runner(name)
    return name


def find_device(name: str, runner: Path | None = None) -> Device:
    """The device called `name`; it is not reached yet.

    Args:
        name: such as "local", "ssh:pi@board" or "adb:SERIAL".
        runner: a native runner of one's own, which Android devices take.

    Raises:
        ConfigError: there is none, or it takes no runner.
    """
    kind, _, address = name.partition(":")
    if kind in _PARSERS and address:
        device = _PARSERS[kind](address)
    elif name in _MAKERS:
        device = _MAKERS[name]()
    else:
        known = {**DEVICES, **REACHED, **EMULATED, **BROWSERS}
        found = ", ".join(f"{device} ({what})" for device, what in known.items())
        raise ConfigError(f"no device {name!r}{did_you_mean(name, [*_MAKERS, *BROWSERS])}; expected one of {found}")
    if runner is None:
        return device
    if not isinstance(device, AdbDevice):
        raise _takes_no_runner(name)
    return device.with_runner(runner)


def find_browser(name: str) -> BrowserDevice:
    """The browser called `name`, one of `BROWSERS`."""
    return _BROWSERS[name]


def _takes_no_runner(name: str) -> ConfigError:
    return ConfigError(f"{name}: takes no runner of its own; expected {ADB_FORM}; leave it out")


def check_device(name: str) -> str:
    """Return `name` if programs can be timed there.

    Raises:
        ConfigError: they cannot.
    """
    if name not in BROWSERS and not find_device(name).can_time:
        raise ConfigError(str(no_times(name)))
    return name


def timing_device(name: str, runner: Path | None = None) -> Device | BrowserDevice | None:
    """Where programs are timed; None is this machine, by the Python package of a runtime.

    Raises:
        ConfigError: there is no such device, it has no time, or it takes no runner.
    """
    check_device(name)
    if name in BROWSERS:
        if runner is not None:
            raise _takes_no_runner(name)
        return find_browser(name)
    found = find_device(name, runner)
    return None if found.name == LocalDevice.name else found


def no_times(name: str) -> DmedgeError:
    """The error of whoever asks an emulated device for a time."""
    return DmedgeError(
        f"{name} is emulated: a time taken there is the emulator's, and no latency of any device; "
        f"expected a device that can be timed; use --device {next(iter(DEVICES))}, or compare outputs there"
    )
