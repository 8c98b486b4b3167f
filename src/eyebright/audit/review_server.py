"""The server of the review page: on 127.0.0.1 alone, for itself alone.

It answers to no other name, and changes the table only for the page that it made itself.
"""

import contextlib
import json
import os
import re
import secrets
import sys
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eyebright.audit.findings import Finding
from eyebright.audit.review import Review
from eyebright.console import notices, say, shown
from eyebright.data import Dataset
from eyebright.errors import EyebrightError, UsageError

HOST = "127.0.0.1"
LARGEST_BODY = 1024  # bytes; a decision has about a hundred
PATIENCE = 30.0  # seconds that a client may take to send a request
TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"
WISH = {"finding": (int,), "decision": (str,), "label": (int, type(None)), "twin": (bool,)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line, not a traceback; and a browser that has gone away is no news."""
        if not isinstance(error := sys.exception(), OSError):
            notices.error("review page: %r", error)


class _Page(BaseHTTPRequestHandler):
    """Answers the page's requests, and refuses all others without saying much."""

    server_version, sys_version = "eyebright", ""
    timeout = PATIENCE

    def __init__(self, review: Review, *arguments: Any):
        self.review = review  # before the rest, which answers the request already
        super().__init__(*arguments)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal belongs to the command."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A refusal in a word; what was asked for is not repeated."""
        self._send(code, HTTPStatus(code).phrase.encode(), TEXT)

    def do_GET(self) -> None:
        """The page, or a picture by its number."""
        path = self.path.partition("?")[0]
        if not self._is_asked_by_name():
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == "/":
            nonce = secrets.token_urlsafe(16)
            try:
                html = self.review.page(nonce).encode("utf-8", "backslashreplace")
            except EyebrightError as error:
                text = shown(error).encode()
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, text, TEXT)
            else:
                self._send(HTTPStatus.OK, html, HTML, nonce)
        elif found := re.fullmatch(r"/picture/([0-9]{1,9})", path):
            try:
                content = self.review.picture(int(found[1]))
            except IndexError:
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._send(HTTPStatus.OK, content, "image/png", keep=True)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """A decision, from the page itself and from no other."""
        host, given = self.headers.get("Host", ""), self.headers.get("X-Token", "")
        itself = self.headers.get("Origin") == f"http://{host}"
        known = secrets.compare_digest(given.encode("utf-8", "replace"), self.review.token.encode())
        if not (self._is_asked_by_name() and itself and known):
            return self.send_error(HTTPStatus.FORBIDDEN)
        if self.path != "/decide":
            return self.send_error(HTTPStatus.NOT_FOUND)
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            return self.send_error(HTTPStatus.LENGTH_REQUIRED)
        if int(length) > LARGEST_BODY:
            return self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            wish = json.loads(self.rfile.read(int(length)))
            whole = isinstance(wish, dict) and wish.keys() == WISH.keys()
            if not whole or any(type(wish[key]) not in kinds for key, kinds in WISH.items()):
                raise ValueError("not what a decision is")
            self.review.decide(**wish)
        except (ValueError, RecursionError):
            return self.send_error(HTTPStatus.BAD_REQUEST)
        except EyebrightError as error:
            reply = json.dumps({"error": shown(error)}).encode()
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, reply, JSON)
        return self._send(HTTPStatus.OK, b"{}", JSON)

    def _is_asked_by_name(self) -> bool:
        """Whether the request is for us: another site's name may be made to lead here too."""
        port = self.connection.getsockname()[1]
        return self.headers.get_all("Host") in ([f"{HOST}:{port}"], [f"localhost:{port}"])

    def _send(
        self, code: int, content: bytes, kind: str, nonce: str = "", keep: bool = False
    ) -> None:
        own = f"'nonce-{nonce}'" if nonce else "'none'"
        policy = f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src {own}; "
        policy += f"script-src {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "private, max-age=3600" if keep else "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def make_server(review: Review, port: int = 0) -> ThreadingHTTPServer:
    """A server of the page, which does not answer yet: ``serve_forever`` does.

    Args:
        review: what to decide on.
        port: of 127.0.0.1; 0: any that is free.

    Raises:
        UsageError: the port is taken, or no port.
    """
    try:
        return _Server((HOST, port), partial(_Page, review))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--port {port}: {reason}; leave it out for one that is free") from None


def serve_review(
    parts: Mapping[str, Dataset],
    findings: Sequence[Finding],
    table_path: str | os.PathLike[str],
    port: int = 0,
    language: str = "en",
    open_browser: bool = True,
) -> None:
    """Serve the review page until Ctrl-C, and say where the table is.

    Args:
        parts: as in `Review`.
        findings: what to decide on, in this order.
        table_path: where decisions go (`eyebright.data.decisions.table_beside` has a place).
        port: of 127.0.0.1; 0: any that is free.
        language: ``en`` or ``zh``.
        open_browser: open the page in the user's browser.

    Raises:
        UsageError: no such language, or the port is taken.
        DataError: what lies at the path is no table of decisions.
        StorageError: no table can be written there.
    """
    review = Review(parts, findings, table_path, language)
    with make_server(review, port) as server, contextlib.suppress(KeyboardInterrupt):
        url = f"http://{HOST}:{server.server_address[1]}/"
        say(f"review {len(findings):,} findings: {url} (Ctrl-C ends it)")
        if open_browser:  # in a thread: browsers in a terminal only come back when they are left
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.serve_forever()
    try:
        decided = len(review.decisions())
    except EyebrightError as error:
        return notices.warning("%s", error)
    if not decided:
        return say("nothing was decided")
    return say(f"{decided:,} decided: {shown(review.table)} (use it with --labels)")
