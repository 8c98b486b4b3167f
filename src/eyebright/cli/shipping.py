"""The verb that hands a model on: export."""

from pathlib import Path
from typing import Annotated

import typer

from eyebright.cli.options import Device, RunArgument
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
