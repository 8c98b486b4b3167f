"""The verbs that let others use a model: export, serve."""

from pathlib import Path
from typing import Annotated

import typer

from eyebright.cli.options import Coverage, Device, MaxPixels, Risk, RunArgument
from eyebright.console import say, shown, waiting_for


def export(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", help="onnx, or pt2 (torch.export).")] = "onnx",
    resize: Annotated[
        bool, typer.Option("--resize", help="The graph takes a picture of any size, and resizes.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Eight-bit integers; says what that loses and gains.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Default: onnx, pt2 or onnx-int8 in RUN."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Write the model as one graph from pixels to probabilities, and prove that it is the same."""
    waiting_for("tracing the net and comparing on real pictures")
    from eyebright.export import check_format
    from eyebright.export import export as export_model
    from eyebright.run import Run

    check_format(to, resize, int8)
    done = export_model(Run(run), to, resize, int8, output, device)
    found = done.certificate
    parity = found["parity"]
    kinds = " and ".join(f"{n:,} {name}" for name, n in parity["pictures"].items())
    say(f"{shown(done.folder / found['file'])}: {found['bytes'] / 1e6:.1f} MB, {found['takes']}")
    whose = "before quantising, the same as the run" if int8 else "the same as the run"
    say(
        f"{whose}: probabilities within {parity['largest_difference']:.1g} and "
        f"{parity['labels_equal']:,} of {parity['n']:,} labels equal ({kinds} pictures)"
    )
    if int8:
        from eyebright.quantized import measured_lines

        for line in measured_lines(found["int8"]):
            say(line)
    say(f"certificate: {shown(done.folder / 'parity.json')}")


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
    no_heat: Annotated[
        bool,
        typer.Option("--no-heat", help="No heat maps, each of which predictions wait for."),
    ] = False,
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
        heat_maps=not no_heat,
    )
