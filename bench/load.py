"""What the server stands: its capacity, its latencies below and above, and half an hour of all.

    python -m bench.load RUN PICTURE                    # about three minutes
    python -m bench.load RUN PICTURE --soak 30          # thirty minutes of mixed load

The client is h2load (Debian: nghttp2-client), in its own process. It opens connections at a fixed
rate, whether or not earlier ones are answered, and asks once over each: an open loop, so that a
server that falls behind is not asked any more slowly for it. Rows go into ``results/load.csv``
and ``results/load-soak.csv``.
"""

import argparse
import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from bench.fuzz import peak_memory
from bench.rows import append_row

PERIOD = 100  # times a second that connections are opened
STEP = 4  # seconds that each rate is offered, in search of the capacity
TIME_WAIT = 65  # seconds that the kernel keeps the port of a connection that is over
MOST_AT_ONCE = 20_000  # connections within that time, of 28,000 ports that there are
GROWTH = 1.2  # from one rate to the next


@dataclass
class Server:
    """A server that runs, and the processes it is made of."""

    process: subprocess.Popen[str]
    port: int

    def memory(self) -> float:
        """MiB that its processes had at most, added up."""
        processes = (self.process.pid, *children(self.process.pid))
        return sum(map(peak_memory, processes)) / 2**20


def children(pid: int) -> list[int]:
    """Processes that another one started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def serving(*command: str, port: int) -> Iterator[Server]:
    """A server, from when it is ready."""
    process = subprocess.Popen([sys.executable, "-m", *command], text=True)
    server = Server(process, port)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                if ask(port, "GET", "/readyz") == 200:
                    break
            time.sleep(0.1)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=15)


def ask(port: int, method: str, path: str, body: bytes | None = None, timeout: float = 20) -> int:
    """The status of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "image/jpeg"} if body else {})
        reply = connection.getresponse()
        reply.read()
        return reply.status


@dataclass
class Offered:
    """What became of requests that were sent at a fixed rate."""

    rate: float
    seconds: float
    """From the first request to the last answer."""
    milliseconds: dict[int, list[float]]
    """Of each status, sorted; from when a request is sent, once its connection stands."""
    lost: int
    """Requests that were never answered."""

    @property
    def answered(self) -> float:
        """Pictures predicted a second."""
        return len(self.milliseconds.get(200, [])) / self.seconds

    def p99(self, status: int) -> float | None:
        """Milliseconds that 99 of 100 such answers took at most."""
        found = self.milliseconds.get(status, [])
        return round(quantiles(found, n=100)[98], 1) if len(found) > 1 else None


def offer(port: int, rate: float, seconds: float, picture: Path | None, path: str) -> Offered:
    """Send requests at a rate, whatever becomes of them.

    Args:
        port: of 127.0.0.1.
        rate: requests a second.
        seconds: for so long.
        picture: the body; None: a GET.
        path: what is asked for.
    """
    each = max(1, round(rate / PERIOD))
    period = max(1, round(1000 * each / rate))  # milliseconds, which h2load takes whole
    rate = 1000 * each / period
    n = max(2, round(rate * seconds))
    with tempfile.NamedTemporaryFile() as log:
        body = [] if picture is None else ["-d", str(picture), "-H", "content-type: image/jpeg"]
        command = ["h2load", "--h1", "-n", str(n), "-c", str(n), "-r", str(each)]
        command += ["--rate-period", f"{period}ms", "--log-file", log.name, *body]
        url = f"http://127.0.0.1:{port}{path}"
        with contextlib.suppress(subprocess.TimeoutExpired):  # so far behind that it never ends
            subprocess.run([*command, url], check=True, capture_output=True, timeout=seconds + 30)
        rows = [line.split() for line in Path(log.name).read_text().splitlines()]
    found: dict[int, list[float]] = {}
    for _, status, micros in rows:
        found.setdefault(int(status), []).append(int(micros) / 1000)
    for times in found.values():
        times.sort()
    if not rows:
        return Offered(rate, seconds, found, n)
    begun = min(int(row[0]) for row in rows)
    span = max(int(row[0]) + int(row[2]) for row in rows) - begun
    return Offered(rate, max(seconds, span / 1e6), found, n - len(rows))


def find_capacity(port: int, picture: Path) -> float:
    """The most pictures a second that are answered, at whatever rate they are offered."""
    best, rate, since = 0.0, 50.0, 0
    while since < 3:
        found = offer(port, rate, STEP, picture, "/predict")
        print(f"  offered {rate:.0f}/s: answered {found.answered:.0f}/s, p99 {found.p99(200)} ms")
        since = 0 if found.answered > 1.03 * best else since + 1
        best, rate = max(best, found.answered), GROWTH * rate
    return best


# What bad and hostile clients send. Each gives the statuses it was answered with.


def send(port: int, *parts: bytes, wait: float = 0.0, read: bool = True) -> list[int]:
    """Raw bytes over a connection of their own, and what is answered."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 20) as to:
        for part in parts:
            to.sendall(part)
            time.sleep(wait)
        said = to.recv(65536) if read else b""
        return [int(said.split()[1])] if said.startswith(b"HTTP/1.1 ") else []
    return []


def head(length: int | None, more: str = "") -> bytes:
    """The beginning of a request with a body."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{size}\r\n{more}\r\n".encode()


def bad_clients(port: int, good: bytes, rng: random.Random) -> list[Callable[[], list[int]]]:
    """Those that mean no harm and those that do."""
    cut = good[: len(good) // 2]
    flipped = bytearray(good)
    flipped[rng.randrange(len(good))] ^= 0xFF
    probes = ("/../../etc/passwd", "/page/%2e%2e/x", "/nothing", "/predict?top=x")

    def asked(method: str, path: str, body: bytes | None = None) -> list[int]:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return [ask(port, method, path, body)]
        return []

    return [
        lambda: asked("POST", "/predict", cut),
        lambda: asked("POST", "/predict", bytes(flipped)),
        lambda: asked("POST", "/predict", b"words, not pixels"),
        lambda: asked("POST", "/predict", rng.randbytes(5000)),
        lambda: asked("GET", rng.choice(probes)),
        lambda: asked("GET", "/model"),
        lambda: asked("GET", "/metrics"),
        lambda: send(port, head(10_000_000_000), bytes(1000)),
        lambda: send(port, head(None), *[b"10000\r\n" + bytes(0x10000) + b"\r\n"] * 40),
        lambda: send(
            port, head(len(good)), *[bytes([b]) for b in good[:50]], wait=0.05, read=False
        ),
        lambda: send(port, head(len(good)), good, read=False),  # gone before the answer
        lambda: send(port, b"\x16\x03\x01\x02\x00\x01\x00" + rng.randbytes(200)),
        lambda: send(port, head(len(good), "Origin: http://evil.example\r\n"), good),
        lambda: send(port, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
        lambda: send(port, b"GET / HTTP/1.1\r\nX: " + bytes(100) * 1000),
    ]


@dataclass
class Mixed:
    """Good, bad and hostile clients at once, in threads of this process."""

    port: int
    good: bytes
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_liveness: float = 0.0
    """Seconds."""
    failures: list[str] = field(default_factory=list)
    """Good clients, or a look at liveness, that got no answer."""

    def run(self, seconds: float, good: int = 4, bad: int = 4) -> None:
        """Ask for so long, with so many clients of each kind."""
        until = time.monotonic() + seconds
        lock = threading.Lock()

        def count(found: list[int]) -> None:
            with lock:
                self.statuses.update(found)

        def asked(method: str, path: str, body: bytes | None = None) -> list[int]:
            try:
                return [ask(self.port, method, path, body)]
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{method} {path}: {error!r}")
                return []

        def ask_well() -> None:
            while time.monotonic() < until:
                count(asked("POST", "/predict", self.good))

        def ask_badly(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < until:
                count(rng.choice(bad_clients(self.port, self.good, rng))())

        def watch() -> None:
            while time.monotonic() < until:
                started = time.monotonic()
                if asked("GET", "/healthz") != [200]:
                    self.failures.append("not alive")
                self.slowest_liveness = max(self.slowest_liveness, time.monotonic() - started)
                time.sleep(0.1)

        threads = [threading.Thread(target=ask_well) for _ in range(good)]
        threads += [threading.Thread(target=ask_badly, args=(seed,)) for seed in range(bad)]
        threads.append(threading.Thread(target=watch))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=int, default=15, help="of each measurement")
    parser.add_argument("--soak", type=float, default=0, help="minutes of mixed load, nothing else")
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    if shutil.which("h2load") is None:
        parser.error("h2load is needed (Debian: nghttp2-client)")
    run, picture, port = arguments.run, arguments.picture, arguments.port
    if arguments.soak:
        with serving("eyebright", "serve", run, "--port", str(port), port=port) as server:
            soak(server, run, picture, arguments.soak)
        return
    print("a plain FastAPI handler")
    plain = 0.0
    for threads in ("1", str(os.cpu_count())):
        with serving("bench.peers.plain_server", run, str(port), threads, port=port):
            plain = max(plain, find_capacity(port, picture))
    print("eyebright serve")
    with serving("eyebright", "serve", run, "--port", str(port), port=port) as server:
        measure(server, run, picture, arguments.seconds, plain)


def measure(server: Server, run: str, picture: Path, seconds: int, plain: float) -> None:
    """Capacity, latencies below and above it, and the row of them."""
    port = server.port
    capacity = find_capacity(port, picture)
    below = offer(port, 0.7 * capacity, seconds, picture, "/predict")
    alive: list[Offered] = []
    time.sleep(TIME_WAIT)
    above_seconds = min(seconds, MOST_AT_ONCE / (4 * capacity))
    watcher = threading.Thread(
        target=lambda: alive.append(offer(port, 20, above_seconds, None, "/healthz"))
    )
    watcher.start()
    above = offer(port, 4 * capacity, above_seconds, picture, "/predict")
    watcher.join()
    others = (len(times) for s, times in above.milliseconds.items() if s not in (200, 429))
    row = {
        "run": Path(run).name,
        "plain_per_second": round(plain),
        "capacity_per_second": round(capacity),
        "times_plain": round(capacity / plain, 2),
        "p99_ms_at_70_percent": below.p99(200),
        "refused_at_70_percent": len(below.milliseconds.get(429, [])),
        "answered_per_second_at_4_times": round(above.answered),
        "p99_ms_accepted_at_4_times": above.p99(200),
        "p99_ms_refused_at_4_times": above.p99(429),
        "slowest_ms_alive_at_4_times": round(max(alive[0].milliseconds[200]), 1),
        "other_statuses": sum(others),
        "never_answered": below.lost + above.lost + alive[0].lost,
        "peak_mib": round(server.memory()),
    }
    append_row("load", row)


def soak(server: Server, run: str, picture: Path, minutes: float) -> None:
    """Mixed load, and the row of what came of it."""
    mixed = Mixed(server.port, picture.read_bytes())
    mixed.run(60 * minutes)
    row = {
        "run": Path(run).name,
        "minutes": minutes,
        "answers": sum(mixed.statuses.values()),
        "predicted": mixed.statuses[200],
        "statuses": " ".join(f"{s}:{n}" for s, n in sorted(mixed.statuses.items())),
        "failures": len(mixed.failures),
        "answers_5xx": sum(n for status, n in mixed.statuses.items() if status >= 500),
        "slowest_ms_alive": round(1000 * mixed.slowest_liveness, 1),
        "peak_mib": round(server.memory()),
    }
    append_row("load-soak", row)


if __name__ == "__main__":
    main()
