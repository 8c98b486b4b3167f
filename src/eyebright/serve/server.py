"""Below the application: uvicorn, from the socket to the last signal."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

from uvicorn import Config, Server

from eyebright.errors import StorageError
from eyebright.serve.door import Door
from eyebright.serve.guard import RefusedError
from eyebright.serve.protocol import KEEP_ALIVE, MOST_CONNECTIONS, Protocol

OTHER_FILES = 100  # that the process needs beside them
BACKLOG = 2048  # connections that wait to be taken
FAREWELL = 0.5  # seconds between "not ready" and no longer listening
GRACE = 6.0  # seconds for what was accepted


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; who connects waits until somebody answers.

    Raises:
        StorageError: the port is taken, or there is no such address.
    """
    with contextlib.ExitStack() as on_error:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            bound = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(BACKLOG)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"{host}:{port}: {reason}; choose another --port, or --host"
            ) from None
        on_error.pop_all()
    return bound


def most_connections() -> int:
    """As many as the system's limit on open files leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(MOST_CONNECTIONS, soft - OTHER_FILES))


class GracefulServer(Server):
    """Says that it is leaving before it does."""

    def __init__(self, config: Config, begun: Callable[[], None], leaving: Callable[[], None]):
        super().__init__(config)
        self.begun, self.leaving = begun, leaving

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The first signal: finish what was accepted. Ctrl-C once more: at once."""
        self._captured_signals.append(sig)
        if len(self._captured_signals) > 1:
            self.should_exit = True
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        self.leaving()
        self.loop.call_soon_threadsafe(self.loop.call_later, FAREWELL, self.leave)

    def leave(self) -> None:
        """No longer listen."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who connects."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.begun()


def run(
    app: Any,
    bound: socket.socket,
    refuse: Callable[[str], RefusedError | None],
    begun: Callable[[], None],
    leaving: Callable[[], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted.

    Args:
        app: an ASGI application.
        bound: a socket from `bind`.
        refuse: looks at a request's path before anything is done for it; None lets it in.
        begun: called when it answers.
        leaving: called when the first signal comes.

    Raises:
        KeyboardInterrupt: at the end, as the signal asked for.
    """
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # whatever people send is no news
    own = {"refuse": staticmethod(refuse), "most_connections": most_connections()}
    connection = type("Connection", (Protocol,), own)
    config = Config(
        app,
        http=type("AtTheDoor", (Door,), {"connection": connection}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE),
        timeout_keep_alive=KEEP_ALIVE,
        backlog=BACKLOG,
    )
    GracefulServer(config, begun, leaving).run([bound])
