"""A device for the real adb: the part of its protocol that shells need, over TCP; commands run on this machine.

Source: protocol.txt and shell_v2 of Android's adb (packages/modules/adb).
"""

import itertools
import os
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

CNXN, OPEN, OKAY, CLSE, WRTE = (struct.unpack("<I", name)[0] for name in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE"))
VERSION, MAX_DATA = 0x01000001, 256 * 1024
BANNER = b"device::ro.product.name=test;ro.product.model=Test;ro.product.device=test;features=shell_v2"
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
SYSTEM = "system"
BATTERY = "/sys/class/power_supply/battery"
HEAT = "/sys/class/thermal/"


class AdbDevice:
    """Listens on a port of its own; `adb connect` reaches it."""

    def __init__(self, temporary: Path) -> None:
        """Listen.

        Args:
            temporary: the folder that shells there call TMPDIR, as Android's do; what lies in `SYSTEM` below it
                stands there for the battery and the thermal zones of this machine.
        """
        self._temporary = temporary
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[Link] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._links.append(Link(connection, self._temporary))

    def vanish(self) -> None:
        """Cut every connection, and take no new one."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.vanish()


class Link:
    """One connection of an adb server."""

    def __init__(self, connection: socket.socket, temporary: Path) -> None:
        self._connection, self.temporary = connection, temporary
        self._sending = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)  # never one twice: a late packet of a closed shell must not reach another
        threading.Thread(target=self._serve, daemon=True).start()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._sending:
            self._connection.sendall(head + data)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        for stream in list(self._streams.values()):
            stream.end()

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            part = self._connection.recv(size - len(content))
            if not part:
                raise ConnectionResetError
            content += part
        return content

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                command, first, second, length, _, _ = struct.unpack("<6I", self._read(24))
                data = self._read(length)
                if command == CNXN:
                    self.send(CNXN, VERSION, MAX_DATA, BANNER)
                elif command == OPEN:
                    self._open(first, data.rstrip(b"\0").decode())
                elif command in (WRTE, OKAY, CLSE) and second in self._streams:
                    stream = self._streams[second]
                    if command == WRTE:
                        self.send(OKAY, second, first)
                        stream.take(data)
                    elif command == OKAY:
                        stream.may_send.release()
                    else:
                        self._streams.pop(second).end()

    def _open(self, theirs: int, service: str) -> None:
        if not service.startswith("shell,v2"):
            self.send(CLSE, 0, theirs)
            return
        mine = next(self._numbers)
        self._streams[mine] = Stream(self, mine, theirs, service.partition(":")[2])


class Stream:
    """One shell."""

    def __init__(self, link: Link, mine: int, theirs: int, script: str) -> None:
        self._link, self._mine, self._theirs = link, mine, theirs
        self._heard = b""
        self._is_sending = threading.Lock()
        self.may_send = threading.Semaphore(1)
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _with_system(script, link.temporary / SYSTEM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(link.temporary)},
            cwd="/",
        )
        link.send(OKAY, mine, theirs)
        readers = [
            threading.Thread(target=self._pass_on, args=(STDOUT, self._process.stdout), daemon=True),
            threading.Thread(target=self._pass_on, args=(STDERR, self._process.stderr), daemon=True),
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._finish, args=(readers,), daemon=True).start()

    def take(self, data: bytes) -> None:
        """Handle packets of shell_v2, which may come in pieces."""
        self._heard += data
        while len(self._heard) >= 5:
            kind, length = struct.unpack("<BI", self._heard[:5])
            if len(self._heard) < 5 + length:
                return
            content, self._heard = self._heard[5 : 5 + length], self._heard[5 + length :]
            assert self._process.stdin is not None
            with suppress(BrokenPipeError, ValueError):
                if kind == STDIN:
                    self._process.stdin.write(content)
                    self._process.stdin.flush()
                elif kind == CLOSE_STDIN:
                    self._process.stdin.close()

    def end(self) -> None:
        """Hang up, as a device does whose cable is pulled."""
        self._process.kill()
        self.may_send.release()

    def _pass_on(self, kind: int, stream: object) -> None:
        while content := os.read(stream.fileno(), 60_000):  # type: ignore[attr-defined]
            self._send(struct.pack("<BI", kind, len(content)) + content)

    def _finish(self, readers: list[threading.Thread]) -> None:
        for reader in readers:
            reader.join()
        code = self._process.wait() & 0xFF
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._send(struct.pack("<BIB", EXIT, 1, code))
        with suppress(OSError):
            self._link.send(CLSE, self._mine, self._theirs)

    def _send(self, packet: bytes) -> None:
        """One packet, once the one before was received."""
        with self._is_sending:
            self.may_send.acquire()
            with suppress(OSError):
                self._link.send(WRTE, self._mine, self._theirs, packet)


def _with_system(script: str, root: Path) -> str:
    """The script reading battery and thermal zones below `root`, told of as if they were the machine's own."""
    if not root.is_dir() or BATTERY not in script:
        return script
    for place in (BATTERY, HEAT):
        script = script.replace(place, f"{root}{place}")
    return f"{{ {script}; }} | sed 's#{root}/#/#'"
