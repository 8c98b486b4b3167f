"""What stands before every route: who may ask, how much may be sent, what browsers may do with it.

A page of another site can make a browser send requests to 127.0.0.1, and by a name that it owns can
even be taken for ours (DNS rebinding); so names, not numbers, are what a request is refused for.
"""

import functools
import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from eyebright.console import notices, shown

MOST_BODY = 32 << 20  # bytes of a request
MOST_BODIES = 64 << 20  # bytes of all requests that are being answered
GONE = 499  # as a status in figures: nobody was there to read it
MOST_PICTURES = 256  # of a request
# What holds no secrets works without a token.
PUBLIC = re.compile(r"/|/page/[^/]*|/healthz|/readyz")
HOST = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

Scope: TypeAlias = Any  # as ASGI has them
Message: TypeAlias = Any
Call: TypeAlias = Any


class RefusedError(Exception):
    """A request that is not answered as it wished."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def body(self) -> bytes:
        """Of its answer."""
        return json.dumps({"error": self.message}).encode()

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """All of its answer's headers."""
        own = {"content-type": "application/json", "content-length": str(len(self.body))}
        return [*((k.encode(), v.encode()) for k, v in (own | self.headers).items()), *RAW_HEADERS]

    def in_full(self, **headers: str) -> bytes:
        """Its answer as it goes over the line, with further headers."""
        return _in_full(self.status, self.message, *(self.headers | headers).items())


@functools.lru_cache(maxsize=64)  # a crowd is refused for few reasons
def _in_full(status: int, message: str, *headers: tuple[str, str]) -> bytes:
    refused = RefusedError(status, message, **dict(headers))
    lines = [b"%s: %s\r\n" % pair for pair in refused.raw_headers()]
    return b"".join((STATUS_LINE[status], *lines, b"\r\n", refused.body))


def too_busy(seconds: int) -> RefusedError:
    """Everybody who waits is enough; come back."""
    return RefusedError(429, "too many pictures wait already", retry_after=str(seconds))


@dataclass
class Guard:
    """An ASGI application around another one."""

    app: Call
    count: Callable[[str, int, float | None], None]
    """Told path, status and seconds of each answer."""
    token: str | None = None
    """What who asks must know; None: nothing."""
    names: Collection[str] = ()
    """Names, in small letters, that the server may be called by; any address and localhost go."""
    most_body: int = MOST_BODY
    bytes_held: int = field(default=0, init=False)
    """Of bodies of requests that are being answered."""

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":  # start and end
            await self.app(scope, receive, send)
            return None
        try:
            self.check(scope)
        except RefusedError as refused:
            self.count(scope["path"], refused.status, None)
            return await answer(refused, send)
        if scope["method"] == "HEAD":  # as GET; the server leaves the body out
            scope = scope | {"method": "GET"}
        begun = monotonic()
        taken = status = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            taken += size
            self.bytes_held += size
            if taken > self.most_body:
                raise too_large(self.most_body)
            if self.bytes_held > MOST_BODIES:
                raise RefusedError(503, "too much is being sent at once", retry_after="1")
            return message

        async def headed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                have = {name for name, _ in message["headers"]}
                extra = [pair for pair in RAW_HEADERS if pair[0] not in have]
                message = message | {"headers": [*message["headers"], *extra]}
            await send(message)

        try:
            await self.app(scope, counted, headed)
        except ClientDisconnect:  # in the middle of his request
            status = GONE
        except Exception as error:  # its message may name paths, which are nobody's business
            notices.error("%s %s: %r", scope["method"], shown(scope["path"]), error)
            if not status:
                await answer(RefusedError(500, "something went wrong here"), headed)
        finally:
            self.bytes_held -= taken
            self.count(scope["path"], status, monotonic() - begun)
        return None

    def check(self, scope: Scope) -> None:
        """See that this request may be answered.

        Raises:
            RefusedError: it may not.
        """
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        hosts = headers.get(b"host", [])
        host = hosts[0].decode("latin-1").lower() if len(hosts) == 1 else ""
        if not self.knows(host):
            raise RefusedError(400, "this server does not go by that name (--allow-host)")
        if scope["method"] not in ("GET", "HEAD"):
            origins = headers.get(b"origin", [])
            own = f"{scope['scheme']}://{host}".encode("latin-1")
            if any(origin.lower() != own for origin in origins):
                raise RefusedError(403, "pages of other sites may not ask")
        if self.token is not None and not PUBLIC.fullmatch(scope["path"]):
            given = headers.get(b"authorization", [b""])[0]
            wanted = f"Bearer {self.token}".encode()
            if not hmac.compare_digest(given, wanted):
                raise RefusedError(401, "a token is needed", www_authenticate="Bearer")
        length = headers.get(b"content-length", [b"0"])[0]
        if len(length) > 15 or int(length or b"0") > self.most_body:  # digits, the parser saw to it
            raise too_large(self.most_body)

    def knows(self, host: str) -> bool:
        """Whether a request may call us so."""
        if not (found := HOST.fullmatch(host)):
            return False
        name = found["six"] or found["name"]
        if name == "localhost" or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def too_large(most: int) -> RefusedError:
    """More than is taken."""
    return RefusedError(413, f"more than {most:,} bytes in one request")


async def answer(refused: RefusedError, send: Call) -> None:
    """Say why, as JSON."""
    headers = refused.raw_headers()
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": refused.body})
