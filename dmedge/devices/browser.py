"""One page in a real browser without a window: Chromium, driven by Playwright from a thread of its own."""

import asyncio
import re
import shutil
import threading
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from dmedge.devices.local import local_facts
from dmedge.errors import DmedgeError, require

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_S = 60.0
T = TypeVar("T")

Provider = Literal["wasm", "webgpu"]  # of onnxruntime-web
NAMES: dict[Provider, str] = {"wasm": "web", "webgpu": "web:webgpu"}


@dataclass(frozen=True, slots=True)
class BrowserDevice:
    """Headless Chromium on this machine, which runs bundles of the target web by the loader that they carry."""

    provider: Provider = "wasm"

    @property
    def name(self) -> str:
        """As the command line calls it."""
        return NAMES[self.provider]

    def facts(self) -> dict[str, object]:
        """Facts of the machine that the browser runs on."""
        return local_facts()


def find_chromium() -> str:
    """Path of the browser.

    Raises:
        DmedgeError: there is none.
    """
    for command in COMMANDS:
        found = shutil.which(command)
        if found is not None:
            return found
    raise DmedgeError(
        f"no Chromium: none of {', '.join(COMMANDS)} is on the PATH; expected one; "
        "run: apt-get install --no-install-recommends chromium"
    )


class BrowserPage:
    """A page that answers questions; the browser ends with it."""

    def __init__(self, url: str, *, flags: Sequence[str] = (), executable: str | None = None) -> None:
        """Start a browser and open `url`.

        Args:
            url: of the page.
            flags: of the browser's command line.
            executable: the browser [default: the one on the PATH].

        Raises:
            DmedgeError: Playwright or Chromium is missing, or does not start.
        """
        self._playwright = require("playwright.async_api", "web")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._resources: dict[str, Any] = {}
        self._end = weakref.finalize(self, _end, self._loop, self._thread, self._resources)
        try:
            self._wait(self._open(executable or find_chromium(), url, flags), START_S, "while starting")
        except DmedgeError:
            self.close()
            raise

    @property
    def version(self) -> str:
        """Name and version of the browser."""
        return f"Chromium {self._resources['browser'].version}"

    def ask(self, function: str, argument: object = None, *, timeout_s: float = START_S, doing: str = "") -> Any:
        """What a JavaScript function of one argument answers, awaited if it is a promise.

        Raises:
            DmedgeError: it throws, or does not answer in time; the browser is then ended.
        """
        if not self._end.alive:
            raise DmedgeError("the browser is closed; expected an open one; open it again")
        return self._wait(self._resources["page"].evaluate(function, argument), timeout_s, doing or "in the page")

    def renderer_processes(self) -> list[int]:
        """Process ids of what runs the pages of this browser."""
        answer = self._wait(
            self._resources["devtools"].send("SystemInfo.getProcessInfo"), START_S, "while looking for its processes"
        )
        return [int(row["id"]) for row in answer["processInfo"] if row["type"] == "renderer"]

    def close(self) -> None:
        """End the browser; closing twice is fine."""
        self._end()

    async def _open(self, executable: str, url: str, flags: Sequence[str]) -> None:
        driver = self._resources["driver"] = await self._playwright.async_playwright().start()
        browser = self._resources["browser"] = await driver.chromium.launch(
            executable_path=executable, args=list(flags)
        )
        self._resources["devtools"] = await browser.new_browser_cdp_session()
        page = self._resources["page"] = await browser.new_page()
        await page.goto(url)

    def _wait(self, work: Coroutine[Any, Any, T], timeout_s: float, doing: str) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            self.close()
            raise DmedgeError(
                f"Chromium gave no answer within {timeout_s:g} s {doing} and was ended; "
                "expected an answer; use a smaller input, or a longer time limit"
            ) from None
        except self._playwright.Error as error:
            message = re.sub(r"^Page\.\w+: ", "", (str(error).splitlines() or ["no message"])[0])
            raise DmedgeError(f"Chromium failed {doing}: {message}") from error


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, resources: dict[str, Any]) -> None:
    async def stop() -> None:
        if "browser" in resources:
            await resources["browser"].close()
        if "driver" in resources:
            await resources["driver"].stop()

    try:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(START_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
