"""Who stands at the door while the house is full is told so there, and goes.

At four times what the server can do, three of four requests are refused; each microsecond that one
of them costs is taken from those who were let in. Making uvicorn's connection, parsing and timers
cost most of it, so they come after the first look at what was sent.
"""

import asyncio
import re
from typing import Any

from eyebright.serve.guard import RefusedError
from eyebright.serve.protocol import HEAD_WITHIN, LATE, Protocol

# A request that is all there, in the plainest form; whatever else comes is looked at thoroughly.
HEADER = rb"[A-Za-z-]+:[^\r\n]*\r\n"
WHOLE = re.compile(
    rb"POST (/[a-z]+)(?:\?[!-~]*)? HTTP/1\.1\r\n"
    rb"(?:%(h)b)*?content-length: *([0-9]{1,8})\r\n(?:%(h)b)*\r\n" % {b"h": HEADER},
    re.IGNORECASE,
)


class Door(asyncio.Protocol):
    """A connection of which nothing was heard yet."""

    connection: type[Protocol]
    """What it becomes."""

    def __init__(self, *, _loop: asyncio.AbstractEventLoop | None = None, **given: Any):
        self.loop, self.given = _loop or asyncio.get_running_loop(), given
        self.connections = given["server_state"].connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self.transport = transport
        self.connections.add(self)
        if len(self.connections) > self.connection.most_connections:
            self.let_in()
        else:
            self.clock = self.loop.call_later(HEAD_WITHIN, self.send_off, LATE)

    def data_received(self, data: bytes) -> None:
        """The first bytes."""
        self.clock.cancel()
        if refused := self.refusal(data):
            self.send_off(refused)
        else:
            self.let_in().data_received(data)

    def send_off(self, refused: RefusedError) -> None:
        """Say why, and close."""
        self.transport.write(refused.in_full(connection="close"))
        self.transport.close()

    def refusal(self, data: bytes) -> RefusedError | None:
        """What can be said at once: closing before all was read would throw the answer away."""
        whole = WHOLE.match(data)
        if whole is None or whole.end() + int(whole[2]) != len(data):
            return None
        return self.connection.refuse(whole[1].decode())

    def let_in(self) -> Protocol:
        """From here on it is uvicorn's."""
        self.connections.discard(self)
        inside = self.connection(_loop=self.loop, **self.given)
        self.transport.set_protocol(inside)
        inside.connection_made(self.transport)
        return inside

    def shutdown(self) -> None:
        """The server leaves."""
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.clock.cancel()
        self.connections.discard(self)
