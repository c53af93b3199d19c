"""The web server on this machine: what a browser that goes away leaves behind."""

import socket
import struct
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from dmedge.devices.loopback import LoopbackServer


def _reset(host: str, port: int, path: str) -> None:
    """Ask for a file, and break the connection off instead of reading it."""
    with socket.create_connection((host, port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _wait_for_answers(before: set[threading.Thread]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not [one for one in set(threading.enumerate()) - before if "process_request" in one.name]:
            return
        time.sleep(0.01)
    pytest.fail("the server still answers; expected it to have noticed")


def test_a_browser_that_goes_away_is_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "large.bin").open("wb") as stream:
        stream.truncate(64_000_000)  # more than the buffers of a socket
    (tmp_path / "small.txt").write_text("here")
    before = set(threading.enumerate())
    server = LoopbackServer({"/": tmp_path})
    try:
        address = urlsplit(server.url)
        assert address.hostname and address.port
        _reset(address.hostname, address.port, "/large.bin")
        _wait_for_answers(before)
        with urlopen(f"{server.url}/small.txt") as answer:
            assert answer.read() == b"here"
    finally:
        server.close()
    assert capfd.readouterr().err == ""
