"""A server in a process of its own, and clients that behave well or badly."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fuzz import peak_memory
from bench.load import children

HEADERS = {"Content-Type": "image/png"}


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    """Their names in small letters."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 20,
    ) -> Reply:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            named = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, named, reply.read())

    def predict(self, content: bytes, path: str = "/predict", **headers: str) -> Reply:
        return self.ask("POST", path, content, HEADERS | headers)

    def predict_form(self, files: list[tuple[str, bytes]], path: str = "/predict") -> Reply:
        """Several pictures, as a form of a browser has them."""
        body = b""
        for name, content in files:
            quoted = name.replace('"', "%22").replace("\n", "%0A").encode()
            body += b'--line\r\nContent-Disposition: form-data; name="pictures"; filename="%s"' % (
                quoted
            )
            body += b"\r\nContent-Type: image/png\r\n\r\n" + content + b"\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=line"}
        return self.ask("POST", path, body + b"--line--\r\n", kind)

    def figure(self, name: str) -> float:
        """One of its figures for Prometheus; 0 where it is not counted yet."""
        text = self.ask("GET", "/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def peak_memory(self) -> int:
        """Bytes of memory that its processes had at most, added up."""
        return sum(map(peak_memory, (self.process.pid, *self.children())))

    def children(self) -> list[int]:
        return children(self.process.pid)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextlib.contextmanager
def served(run: Path, *words: str) -> Iterator[Served]:
    """``eyebright serve RUN`` at a port that is free, ready when the block begins."""
    command = [sys.executable, "-m", "eyebright", "serve", str(run), "--port", "0", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://[^/]*:(\d+)/", line)
        assert found, process.communicate(timeout=20)
        yield Served(process, int(found[1]))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Whatever comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found
