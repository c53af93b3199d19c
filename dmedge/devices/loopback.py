"""A web server that only this machine reaches: folders under prefixes, with headers, such as those of threads."""

import sys
import threading
from collections.abc import Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from dmedge.errors import DmedgeError

TYPES = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class LoopbackServer:
    """Serves until it is closed."""

    def __init__(self, folders: Mapping[str, Path], *, headers: Mapping[str, str] = ISOLATION, port: int = 0) -> None:
        """Start on 127.0.0.1.

        Args:
            folders: prefix of the path, such as "/bundle/" -> the folder below it; "/" stands for all else.
            headers: of every answer; without those of `ISOLATION` pages may not share memory between threads.
            port: to listen on; 0 for a free one.

        Raises:
            DmedgeError: the port is taken.
        """

        class Handler(_Handler):
            places: ClassVar = {prefix: folder.resolve() for prefix, folder in sorted(folders.items(), reverse=True)}
            headers_added: ClassVar = dict(headers)

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except OSError as error:
            raise DmedgeError(f"port {port}: {error.strerror}; expected a free one; choose another --port") from error
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop serving; closing twice is fine."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that ends before it has all of a file is no error of this program."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    places: ClassVar[Mapping[str, Path]]  # longest prefix first
    headers_added: ClassVar[Mapping[str, str]]
    extensions_map = SimpleHTTPRequestHandler.extensions_map | TYPES

    def translate_path(self, path: str) -> str:
        """Place of a file; the base class keeps it below `directory`, whatever the path says."""
        for prefix, folder in self.places.items():
            if path.startswith(prefix):
                self.directory = str(folder)
                return super().translate_path(path.removeprefix(prefix.rstrip("/")))
        return super().translate_path("/missing")

    def end_headers(self) -> None:
        for name, value in self.headers_added.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: standard error is for people."""
