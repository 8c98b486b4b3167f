"""A local page to decide on what an audit found: keep, relabel, drop, undo, by keyboard.

Each decision is on the disk, in the table of `eyebright.data.labels`, before the page goes on. The
server listens on 127.0.0.1 alone, answers to no other name, and changes the table only for the page
that it made itself.
"""

import contextlib
import io
import json
import os
import re
import secrets
import sys
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyebright.audit.findings import Finding
from eyebright.audit.review_words import LANGUAGES, words
from eyebright.console import notices, say, shown
from eyebright.data import Dataset
from eyebright.data.labels import (
    DROP,
    KEEP,
    RELABEL,
    UNDO,
    Decision,
    append,
    read,
    table_ids,
)
from eyebright.errors import EyebrightError, StorageError, UsageError

HOST = "127.0.0.1"
EXAMPLES = 6  # pictures of a class, to compare with
LARGEST_BODY = 1024  # bytes; a decision has about a hundred
PATIENCE = 30.0  # seconds that a client may take to send a request
REPLY = "application/json"
WISH = {"finding": (int,), "decision": (str,), "label": (int, type(None)), "twin": (bool,)}


class Review:
    """What there is to decide on, and what has been decided.

    Args:
        data: the pictures (with a validation part of their own, if they have one), or several
            parts by name: ``train``, ``val``, ``test``.
        findings: what to decide on, in this order.
        table: where decisions go; made with the first one.
        language: of the page, ``en`` or ``zh``.

    Raises:
        UsageError: no such language.
        DataError: what lies there is no table of decisions.
        StorageError: no table can be written there.
    """

    def __init__(
        self,
        data: Dataset | Mapping[str, Dataset],
        findings: Sequence[Finding],
        table: str | os.PathLike[str],
        language: str = "en",
    ):
        if language not in LANGUAGES:
            raise UsageError(
                f"--lang cannot be '{language}'; choose one of: {', '.join(LANGUAGES)}"
            )
        parts = {"train": data} if isinstance(data, Dataset) else dict(data)
        if (train := parts.get("train")) is not None and train.val is not None:
            parts.setdefault("val", train.val)
        self.parts, self.table = list(parts.values()), Path(table)
        self.findings = [
            replace(one, id=shown(one.id), other=None if one.other is None else shown(one.other))
            for one in findings
        ]
        self.language = language
        self.classes = [shown(name) for name in self.parts[0].classes]
        ids = [name for part, pictures in parts.items() for name in table_ids(pictures, part)]
        self.number = {name: number for number, name in enumerate(ids)}
        self.token, self.version = secrets.token_urlsafe(24), secrets.token_hex(4)
        self._lock = threading.Lock()  # one line at a time
        self.decisions()
        place = self.table if self.table.exists() else self.table.parent
        if not os.access(place, os.W_OK):
            raise StorageError(
                f"{shown(self.table)}: cannot be written; name another place with --labels"
            )

    def decisions(self) -> dict[str, Decision]:
        """What the table says now, by id."""
        return read(self.table).of if self.table.exists() else {}

    def decide(self, finding: int, decision: str, label: int | None, twin: bool) -> None:
        """Write down a decision; it is on the disk when this returns.

        Args:
            finding: its position.
            decision: ``keep``, ``relabel``, ``drop`` or ``undo``.
            label: number of the class, for ``relabel``.
            twin: it is the twin that is decided on.

        Raises:
            ValueError: no such finding, decision or class.
            DataError: what lies there is no table of decisions any more.
            StorageError: the disk refuses.
        """
        one = self.findings[finding] if 0 <= finding < len(self.findings) else None
        name = one and (one.other if twin else one.id)
        known = decision in (KEEP, RELABEL, DROP, UNDO) and (decision == RELABEL) == (
            label is not None
        )
        if not name or not known or (label is not None and not 0 <= label < len(self.classes)):
            raise ValueError("no such decision")
        with self._lock:
            append(self.table, name, decision, "" if label is None else self.classes[label])

    def picture(self, number: int) -> bytes:
        """A picture as PNG, by its number among all.

        Raises:
            IndexError: there is no such picture.
        """
        for part in self.parts:
            if number < len(part):
                file = io.BytesIO()
                Image.fromarray(part.pixels[number]).save(file, "PNG")
                return file.getvalue()
            number -= len(part)
        raise IndexError(number)

    def page(self, nonce: str) -> str:
        """The page, as the table now stands.

        Args:
            nonce: that its style and script carry, so that no others run.
        """
        from jinja2 import Environment

        text = words(self.language)
        template = files("eyebright.audit").joinpath("review.html").read_text(encoding="utf-8")
        return (
            Environment(autoescape=True)
            .from_string(template)
            .render(
                t=text.__getitem__,
                language=self.language,
                nonce=nonce,
                table=shown(self.table),
                state=self.state() | {"words": text, "token": self.token},
            )
        )

    def state(self) -> dict[str, Any]:
        """What the page knows: findings, classes, decisions; pictures by number."""
        decided = self.decisions()
        side = max(max(part.pixels.shape[1:3]) for part in self.parts)
        return {
            "findings": [self._describe(finding) for finding in self.findings],
            "classes": self.classes,
            "examples": list(self._examples().items()),
            "decisions": [(name, asdict(one)) for name, one in decided.items()],  # oldest first
            "table": shown(self.table),
            "small": side <= 96,
            "version": self.version,
        }

    def _describe(self, finding: Finding) -> dict[str, Any]:
        other = finding.other
        twin = other and {
            "id": other, "picture": self.number.get(other), "given": self._label(other)
        }  # fmt: skip
        return {
            "kind": finding.kind,
            "id": finding.id,
            "picture": self.number.get(finding.id),
            "given": shown(finding.given),
            "suggested": None if finding.suggested is None else shown(finding.suggested),
            "score": round(float(finding.score), 4) if np.isfinite(finding.score) else None,
            "note": shown(finding.note),
            "twin": twin or None,
        }

    def _label(self, name: str) -> str | None:
        if (number := self.number.get(name)) is None:
            return None
        for part in self.parts:
            if number < len(part):
                return self.classes[int(part.labels[number])]
            number -= len(part)
        return None

    def _examples(self) -> dict[str, list[int]]:
        """Numbers of a few unsuspicious pictures of each class that a finding names."""
        first = self.parts[0]
        suspects = {self.number.get(name) for f in self.findings for name in (f.id, f.other or "")}
        good = np.array([i not in suspects for i in range(len(first))], bool)
        examples = {}
        for name in {shown(n) for f in self.findings for n in (f.given, f.suggested) if n}:
            if name in self.classes:
                of_class = np.flatnonzero(good & (first.labels == self.classes.index(name)))
                steps = np.linspace(0, len(of_class) - 1, min(EXAMPLES, len(of_class)))
                examples[name] = of_class[steps.astype(int)].tolist()
        return examples


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
        self._send(code, HTTPStatus(code).phrase.encode(), "text/plain; charset=utf-8")

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
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, text, "text/plain; charset=utf-8")
            else:
                self._send(HTTPStatus.OK, html, "text/html; charset=utf-8", nonce)
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
        """A decision, from the page itself and no other."""
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
            if not isinstance(wish, dict) or wish.keys() != WISH.keys():
                raise ValueError("not what a decision is")
            if any(type(wish[key]) not in kinds for key, kinds in WISH.items()):
                raise ValueError("not what a decision is")
            self.review.decide(**wish)
        except (ValueError, RecursionError):
            return self.send_error(HTTPStatus.BAD_REQUEST)
        except EyebrightError as error:
            reply = json.dumps({"error": shown(error)}).encode()
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, reply, REPLY)
        return self._send(HTTPStatus.OK, b"{}", REPLY)

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
    data: Dataset | Mapping[str, Dataset],
    findings: Sequence[Finding],
    table_path: str | os.PathLike[str],
    port: int = 0,
    language: str = "en",
    open_browser: bool = True,
) -> None:
    """Serve the review page until Ctrl-C, and say where the table is.

    Args:
        data: as in `Review`.
        findings: what to decide on, in this order.
        table_path: where decisions go (`eyebright.data.labels.table_beside` has a place).
        port: of 127.0.0.1; 0: any that is free.
        language: ``en`` or ``zh``.
        open_browser: open the page in the user's browser.

    Raises:
        UsageError: no such language, or the port is taken.
        DataError: what lies at the path is no table of decisions.
        StorageError: no table can be written there.
    """
    review = Review(data, findings, table_path, language)
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
