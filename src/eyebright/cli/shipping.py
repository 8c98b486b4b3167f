"""The verbs that let others use a model: serve."""

from typing import Annotated

import typer

from eyebright.cli.options import Coverage, Device, MaxPixels, Risk, RunArgument
from eyebright.console import waiting_for


def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0: any.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="EYEBRIGHT_TOKEN", help="What requests must bring along."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name by which requests may call this server."),
    ] = None,
    max_body: Annotated[
        int | None, typer.Option(min=1, help="Refuse requests of more bytes. Default: 33554432.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds in which a request is answered.")
    ] = 10.0,
    threads: Annotated[
        int, typer.Option(min=0, help="Processor threads of the net; 0: half the cores.")
    ] = 0,
    device: Device = "auto",
    risk: Risk = None,
    coverage: Coverage = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Serve a model over HTTP, with a page to drop pictures on."""
    waiting_for("loading the model")
    from eyebright.serve import serve as serve_run

    serve_run(
        run,
        host=host,
        port=port,
        token=token,
        names=tuple(name.lower() for name in allow_host or ()),
        most_body=max_body,
        timeout=timeout,
        risk=risk,
        coverage=coverage,
        device=device,
        threads=threads,
    )
