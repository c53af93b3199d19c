"""The devices that dmedge knows, and what each still needs on this machine."""

from dataclasses import dataclass, replace
from typing import Literal

from dmedge.devices.adb import CLIENT as ADB
from dmedge.devices.browser import COMMANDS, find_chromium
from dmedge.devices.names import BROWSERS, DEVICES, EMULATED, REACHED, WEB, WEBGPU, find_device
from dmedge.devices.needs import Need, install_command, missing
from dmedge.devices.ssh import CLIENT as SSH
from dmedge.devices.webgpu import ask_for_adapter
from dmedge.devices.wheels import host_problem, is_fetched
from dmedge.environment import package_version
from dmedge.errors import DmedgeError
from dmedge.manifest import Runtime

Tells = Literal["outputs and times", "outputs"]
BOTH: Tells = "outputs and times"
OUTPUTS: Tells = "outputs"
RUNNERS: tuple[Runtime, ...] = ("executorch", "onnxruntime")  # that have a native runner


@dataclass(frozen=True, slots=True)
class Listed:
    """One device."""

    name: str
    description: str
    tells: Tells
    missing: tuple[str, ...]  # programs and packages that it needs; empty if it can be used now
    install: tuple[str, ...]  # commands that bring them
    downloads: tuple[str, ...] = ()  # wheels that are fetched when it is first used

    @property
    def is_available(self) -> bool:
        """Whether it can be used now."""
        return not self.missing


def list_devices() -> list[Listed]:
    """Every device, in the order of the command line's help; nothing is started but a browser, to ask for its GPU."""
    here = [_native(name, what) for name, what in {**DEVICES, **EMULATED}.items()]
    reached = [_reached(form, what, client) for (form, what), client in zip(REACHED.items(), (SSH, ADB), strict=True)]
    web = _web()
    return [*here, *reached, web, _webgpu(web)]


def _reached(form: str, description: str, client: Need) -> Listed:
    """A kind of device that is reached over a wire; whether one answers is not asked."""
    needs = missing((client,))
    install = (install_command(needs),) if needs else ()
    return Listed(form, description, BOTH, tuple(need.command for need in needs), install)


def _native(name: str, description: str) -> Listed:
    tells: Tells = BOTH if name in DEVICES else OUTPUTS
    problem = host_problem()
    if problem is not None:
        # This machine itself runs programs in worker processes, by the runtimes' Python packages.
        return Listed(name, description, tells, () if name in DEVICES else (problem,), ())
    device = find_device(name)
    needs = missing(device.needs)
    install = (install_command(needs),) if needs else ()
    installed = [runtime for runtime in RUNNERS if package_version(runtime) is not None]
    downloads = tuple(runtime for runtime in installed if not is_fetched(runtime, device.machine))
    return Listed(name, description, tells, tuple(need.command for need in needs), install, downloads)


def _web() -> Listed:
    browser = next((Need(command, "chromium") for command in COMMANDS if Need(command, "").is_met), None)
    lacking, install = [], []
    if browser is None:
        lacking.append("chromium")
        install.append(install_command([Need("chromium", "chromium")]))
    if package_version("playwright") is None:
        lacking.append("playwright")
        install.append("pip install 'dmedge[web]'")
    return Listed(WEB, BROWSERS[WEB], BOTH, tuple(lacking), tuple(install))


def _webgpu(web: Listed) -> Listed:
    """As `web`, where its browser has an adapter too."""
    listed = replace(web, name=WEBGPU, description=BROWSERS[WEBGPU])
    if not web.is_available:
        return listed
    try:
        adapter = ask_for_adapter(find_chromium())
    except DmedgeError as error:
        return replace(listed, missing=("adapter",), description=f"{listed.description}; {error}")
    tells: Tells = OUTPUTS if adapter.is_software else BOTH
    return replace(listed, tells=tells, description=f"{listed.description}; here: {adapter}")
