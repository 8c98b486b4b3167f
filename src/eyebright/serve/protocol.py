"""A connection: what uvicorn's lacks against slow, endless and too many senders."""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eyebright.serve.guard import RefusedError

HEAD_WITHIN = 10.0  # seconds in which a request's headers must be there
BODY_WITHIN = 60.0  # and all of it
LEAST_RATE = 8 << 10  # bytes a second, which slower senders than these do not mean well
LOOK_EVERY = 5.0  # seconds between two looks at that
MOST_HEAD = 64 << 10  # bytes before a request's body, and of trailers behind it
MOST_HEADERS = 100
MOST_AHEAD = 16  # requests that a client may send before the first is answered
READ_WITHIN = 10.0  # seconds in which a client reads what it asked for
KEEP_ALIVE = 15  # seconds that a connection stays open for another request
MOST_CONNECTIONS = 1000  # fewer, where the system allows fewer open files
LINGER = 1.0  # seconds that a sender who was refused has time to read why
LATE = RefusedError(408, "the request did not arrive in time")


class Protocol(HttpToolsProtocol):
    """A connection that does not wait for ever, nor take more than it should.

    What it adds, by uvicorn's own methods: a request must arrive in time and at some pace, its
    headers may not be endless, and who is refused before the end of his body can read why, where
    closing at once would throw that away.
    """

    refuse: Callable[[str], RefusedError | None] = staticmethod(lambda path: None)
    """Looks at a request's path before anything is done for it."""
    most_connections = MOST_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self.arriving = self.skipping = False
        self.clock: asyncio.TimerHandle | None = None
        self.unread: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            return self.end(RefusedError(503, "too many connections", retry_after="1"))
        return self.begin()

    def begin(self) -> None:
        """A request begins."""
        self.arriving, self.in_body, self.skipping = True, False, False
        self.head_bytes = self.bytes_seen = self.headers_seen = 0
        self.since = monotonic()
        self.wind(HEAD_WITHIN, self.look)

    def wind(self, seconds: float, function: Callable[[], None]) -> None:
        """Set the clock of this connection."""
        if self.clock is not None:
            self.clock.cancel()
        self.clock = self.loop.call_later(seconds, function)

    def look(self) -> None:
        """See whether the request still comes at some pace."""
        age = monotonic() - self.since
        slow = self.bytes_seen < LEAST_RATE * age or age > BODY_WITHIN
        if not self.in_body or slow:
            return self.end(LATE)
        return self.wind(LOOK_EVERY, self.look)

    def end(self, refused: RefusedError) -> None:
        """Say why, and close."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(refused.in_full(connection="close"))
        self.shut()

    def shut(self) -> None:
        """Close, even if the client does not read what was said."""
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self.transport.is_closing():
            return None
        self.bytes_seen += len(data)
        if not self.in_body:
            self.head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return None
        if self.arriving and self.head_bytes > MOST_HEAD:
            return self.end(RefusedError(431, "too many headers"))
        busy = self.arriving or (self.cycle is not None and not self.cycle.response_complete)
        if not busy and self.timeout_keep_alive_task is None:
            self.begin()  # blank lines: the next request may begin so, but not for ever
        return None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; of trailers, which come behind a body, nobody wants to know."""
        self.headers_seen += 1
        if self.in_body:
            self.head_bytes += len(name) + len(value)
        elif self.headers_seen <= MOST_HEADERS:
            super().on_header(name, value)

    def on_message_begin(self) -> None:
        """The first byte of a request, perhaps behind another one that was not waited for."""
        if not self.arriving:
            self.begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """All but the body is there."""
        if len(self.pipeline) >= MOST_AHEAD:
            raise ValueError("too many requests at once")  # which ends the parsing
        self.in_body, self.head_bytes = True, 0
        is_next = self.cycle is None or self.cycle.response_complete
        path = self.url.partition(b"?")[0].decode("latin-1")
        refused: RefusedError | None = None
        if self.headers_seen > MOST_HEADERS:
            refused = RefusedError(431, "too many headers")
        elif is_next:
            refused = self.refuse(path)
        if refused:
            # Nothing else is done for it, so that those who were let in lose no time by it.
            self.skipping = True
            self.transport.write(refused.in_full())
            return self.wind(LINGER, self.shut)
        return super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self.skipping:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self.arriving = False
        if self.clock is not None:
            self.clock.cancel()
        if not self.skipping:
            return super().on_message_complete()
        self.skipping = False
        if not self.parser.should_keep_alive():
            return self.shut()
        handler = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE, handler)
        return None

    def on_response_complete(self) -> None:
        """All was said; if not all was heard, the rest is no longer of interest."""
        super().on_response_complete()
        # Another request may be arriving behind the one that was answered.
        unheard = self.cycle.response_complete and self.cycle.more_body
        if unheard and not self.transport.is_closing():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()
            self.wind(LINGER, self.shut)
        elif self.transport.is_closing():
            self.loop.call_later(READ_WITHIN, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """What came is no request."""
        self.end(RefusedError(400, "no HTTP request"))

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked for."""
        self.shut()

    def shutdown(self) -> None:
        """The server leaves."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(LINGER, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not read."""
        self.unread = self.loop.call_later(READ_WITHIN, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self.unread is not None:
            self.unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self.clock is not None:
            self.clock.cancel()
        super().connection_lost(exc)
