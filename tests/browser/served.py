"""A small server with the contract of `eyebright serve`, which can also misbehave."""

import email
import email.policy
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image, UnidentifiedImageError

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def share(value: float, spread: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


MODEL: dict[str, Any] = {
    "name": "shades",
    "architecture": "white16",
    "recipe": "fast",
    "imgsz": 32,
    "classes": ["dark", "light", "grey"],
    "calibrated": True,
    "temperature": 1.25,
    "tta": "none",
    "weights_sha256": "0123456789abcdef" * 4,
    "version": "9.8.7",
    "explain": True,
    "limits": {"body_bytes": 200_000, "pixels": 10**7, "pictures": 4},
    "promise": {"risk": 0.05, "threshold": 0.71, "answered": 0.83, "n": 5000},
    "evaluation": {
        "split": "test",
        "n": 10_000,
        "accuracy": {"value": 0.918, "low": 0.913, "high": 0.924},
        "trained_on_too": 0,
        "weakest": [{"class": "grey", "recall": share(0.82), "n": 1000}],
        "confused": [{"true": "grey", "predicted": "light", "count": 61, "of": 1000}],
    },
}


class Served:
    """Answers as a model of brightness would: the lighter a picture, the likelier `light`."""

    def __init__(self) -> None:
        self.model: dict[str, Any] = json.loads(json.dumps(MODEL))
        self.token = ""
        self.refusals: list[tuple[int, dict[str, str], str]] = []
        """What the next requests to predict get instead of an answer."""
        self.slowly = 0.0
        """Seconds before a prediction."""
        self.asked: list[str] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(_Handler):
            served = outer

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def prediction(self, data: bytes, top: int, name: str | None = None) -> dict[str, Any]:
        try:
            grey = float(np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean()) / 255
        except UnidentifiedImageError:
            return {"picture": name, "error": "no picture in a format that is read"}
        dark, light, other = self.model["classes"]
        shares = {light: grey * 0.98, dark: (1 - grey) * 0.98, other: 0.02}
        shares = dict(sorted(shares.items(), key=lambda pair: -pair[1])[:top])
        label, likeliest = next(iter(shares.items()))
        found = {"picture": name, "prediction": label, "probability": likeliest}
        found |= {"probabilities": shares, "calibrated": self.model["calibrated"]}
        if self.model["promise"]:
            sure = likeliest >= self.model["promise"]["threshold"]
            found["answer"] = label if sure else None
        return found


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def log_message(self, *_: Any) -> None:
        pass

    def give(self, status: int, body: Any, kind: str = "application/json", **more: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Security-Policy": CSP}
        headers |= {"Content-Length": str(len(data))} | more
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def is_closed(self) -> bool:
        token = self.served.token
        if not token or self.headers["Authorization"] == f"Bearer {token}":
            return False
        self.give(401, {"error": "a token is needed"})
        return True

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.served.asked.append(path)
        if path == "/model":
            if not self.is_closed():
                self.give(200, self.served.model)
            return
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        file = files("eyebright") / "serve" / "page" / name
        self.give(200, file.read_bytes(), KINDS[name.rsplit(".")[-1]])

    def do_POST(self) -> None:
        served, url = self.served, urlsplit(self.path)
        served.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind, query = self.headers["Content-Type"], parse_qs(url.query)
        if self.is_closed():
            return
        if url.path == "/explain":
            heat = np.zeros((8, 8, 4), np.uint8)
            heat[2:5, 2:5] = [255, 120, 0, 220 if query["label"] == ["light"] else 120]
            buffer = io.BytesIO()
            Image.fromarray(heat).save(buffer, "PNG")
            self.give(200, buffer.getvalue(), "image/png")
            return
        if served.refusals:
            status, headers, text = served.refusals.pop(0)
            self.give(status, {"error": text}, **headers)
            return
        time.sleep(served.slowly)
        top = int(query["top"][0])
        if kind.startswith("multipart/form-data"):
            head = f"Content-Type: {kind}\r\n\r\n".encode()
            form = email.message_from_bytes(head + body, policy=email.policy.HTTP)
            parts = [(part.get_payload(decode=True), part.get_filename()) for part in form.walk()][
                1:
            ]
            found = [served.prediction(data, top, name) for data, name in parts]
            self.give(200, {"predictions": found})
            return
        one = served.prediction(body, top)
        self.give(422, one) if "error" in one else self.give(200, {"predictions": [one]})
