"""A model behind HTTP, and a page to drop a picture on."""

import contextlib
import gc
import re
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from eyebright import images
from eyebright.console import notices, say, shown
from eyebright.errors import UsageError, install_command

MOST_PIXELS = 1 << 24  # of a picture; in any format it is decoded within 0.4 GiB
NEEDED = ("fastapi", "prometheus_client", "python_multipart", "uvicorn", "httptools")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    run: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    names: tuple[str, ...] = (),
    most_body: int | None = None,
    timeout: float = 10.0,
    risk: float | None = None,
    coverage: float | None = None,
    device: str = "auto",
    threads: int = 0,
    heat_maps: bool = True,
) -> None:
    """Serve the model of a run until SIGTERM or Ctrl-C.

    Args:
        run: a run folder.
        host: the address to listen at.
        port: its port.
        token: what requests must bring along as ``Authorization: Bearer ...``; None: nothing.
        names: what else than by its address the server may be called in requests.
        most_body: bytes of a request.
        timeout: seconds in which a request is answered, once it is all there.
        risk: answers are sure enough that at most such a share of them is wrong. None: 0.05 where
            the pictures held out can promise that, else every prediction is an answer.
        coverage: also answer with sets of classes, which hold the true one this often.
        device: where to run.
        threads: of the net; 0: one for every two cores, since threads of a net that share a core
            with others wait for each other for long.
        heat_maps: answer ``/explain``; predictions wait while a heat map is made.

    Raises:
        UsageError: the packages for serving are not installed, or no such promise can be made.
        ModelError: no run there, or a damaged one.
        StorageError: the port is taken.
        KeyboardInterrupt: at its end.
    """
    for name in NEEDED:
        if find_spec(name) is None:
            raise UsageError(f"serving needs {name}: {install_command('serve')}")
    from eyebright.serve import server
    from eyebright.serve.app import create_app
    from eyebright.serve.guard import MOST_BODY, MOST_PICTURES, Guard
    from eyebright.serve.net import Net, Wanted
    from eyebright.serve.serving import Serving

    if token is not None and not re.fullmatch("[!-~]+", token):
        raise UsageError("--token must be visible ASCII, which is all that a header can carry")
    most_body = most_body or MOST_BODY
    if images.MAX_PIXELS == images.DEFAULT_MAX_PIXELS:
        images.limit_pixels(MOST_PIXELS)
    limits = {
        "body_bytes": most_body, "pixels": images.MAX_PIXELS, "pictures": MOST_PICTURES,
    }  # fmt: skip
    with contextlib.ExitStack() as at_end:
        bound = at_end.enter_context(contextlib.closing(server.bind(host, port)))
        net = Net(Wanted(run, device, threads, risk, coverage, images.MAX_PIXELS, heat_maps))
        at_end.callback(net.close)
        model = net.load()
        about = model.about | {"version": version("eyebright"), "limits": limits}
        serving = Serving(net, model, about, timeout)
        app = Guard(create_app(serving), serving.numbers.count, token, names, most_body)
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{bound.getsockname()[1]}/"
        if host not in LOOPBACK and token is None:
            notices.warning("whoever reaches this address can use the model; --token asks for one")
        gc.freeze()  # what is there stays; looking through it would hold up requests
        begun = partial(say, f"{shown(run)}: {url} (Ctrl-C ends it)")
        server.run(app, bound, serving.refuse, begun, serving.leave)
