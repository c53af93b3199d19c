"""The GPU that headless Chromium gives to WebGPU, which may be software."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from dmedge.devices.browser import NAMES, BrowserPage
from dmedge.devices.loopback import LoopbackServer
from dmedge.errors import DmedgeError

PAGE = Path(__file__).parent / "web"
# In the names of what computes on the processor: Chromium's own, Mesa's and that of Windows.
SOFTWARE = ("swiftshader", "llvmpipe", "lavapipe", "basic render")

# Without a window, and on Linux, Chromium gives pages no GPU by itself.
# Source: https://developer.chrome.com/blog/supercharge-web-ai-testing
FLAGS = (
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-angle=vulkan",
    "--disable-vulkan-surface",
    "--disable-gpu-watchdog",  # software compiles for seconds, and is not hung
    "--enable-webgpu-developer-features",  # the adapter tells its name too
)
_FIND = "async () => (await import('/adapter.mjs')).findAdapter()"


@dataclass(frozen=True, slots=True)
class Adapter:
    """What WebGPU computes on, as far as the browser names it."""

    vendor: str
    architecture: str
    device: str
    description: str
    is_software: bool  # made of software: the processor computes, and has no time to tell of a GPU

    @classmethod
    def read(cls, info: Mapping[str, Any]) -> Self:
        """From what `adapter.mjs` says."""
        vendor, architecture, device, description = (
            str(info[key]) for key in ("vendor", "architecture", "device", "description")
        )
        names = f"{vendor} {architecture} {device} {description}".lower()
        is_software = bool(info["isFallbackAdapter"]) or any(name in names for name in SOFTWARE)
        return cls(vendor, architecture, device, description, is_software)

    def __str__(self) -> str:
        names = " ".join(name for name in (self.vendor, self.architecture) if name)
        if self.is_software:
            return f"software ({names or self.description or 'not named'}), no GPU"
        return self.description or names or "a GPU that is not named"


def no_gpu_times(adapter: Adapter) -> DmedgeError:
    """The error of whoever asks software in place of a GPU for a time."""
    return DmedgeError(
        f"{NAMES['webgpu']} computes here by {adapter}: a time taken there is the emulation's, and no latency of any "
        "device; expected a GPU that Chromium can use; use --device web, which needs none"
    )


def find_adapter(page: BrowserPage) -> Adapter:
    """The adapter of a browser that was started with `FLAGS`, at a page that is served with `PAGE`.

    Raises:
        DmedgeError: there is none.
    """
    info = page.ask(_FIND, doing="while asking for a GPU")
    if info is None:
        raise DmedgeError(
            f"{page.version} gives WebGPU no adapter here; expected a GPU whose driver it can use, or its own software "
            "in place of one; install a driver for Vulkan, or use --device web, which needs none"
        )
    return Adapter.read(info)


@cache
def ask_for_adapter(executable: str) -> Adapter:
    """Start the browser at `executable`, which `find_chromium` found, and ask; once per process.

    Raises:
        DmedgeError: it does not start, or there is no adapter.
    """
    server = LoopbackServer({"/": PAGE})
    try:
        page = BrowserPage(f"{server.url}/index.html", flags=FLAGS, executable=executable)
        try:
            return find_adapter(page)
        finally:
            page.close()
    finally:
        server.close()
