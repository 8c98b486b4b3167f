"""The verb `explain`: which pixels mattered, in words and as pictures; or a loss, step by step."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eyebright.cli.chain import explain_losses
from eyebright.cli.mistakes import check_order
from eyebright.cli.options import Device, MaxPixels, RunArgument
from eyebright.console import as_text, progress_bar, say, shown, waiting_for
from eyebright.errors import StorageError, UsageError

SIDE, GAP, TEXT = 360, 16, 50  # px of a picture in a sheet, around it, and of the words above it
MOST_ON_A_SHEET = 40


def explain(
    run: RunArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE", help="Picture files, or folders of them.")
    ],
    label: Annotated[
        str | None, typer.Option("--class", help="Explain this class. Default: the likeliest.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto, hires-cam, grad-cam or integrated-gradients.")
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="A .png for one sheet of all, or a folder. Default: explain-<picture>.png each.",
        ),
    ] = None,
    loss: Annotated[
        bool,
        typer.Option(
            "--loss", help="Print instead how its loss is made: from logits to cross-entropy."
        ),
    ] = False,
    truth: Annotated[
        str | None,
        typer.Option(
            "--label", metavar="CLASS", help="With --loss: the true class. Default: the folder's."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Show which pixels of a picture spoke for a class, as a heat map; or how its loss is made."""
    check_order("explain", run, pictures)
    if loss:
        if label is not None or method != "auto" or output is not None:
            raise UsageError(
                "--class, --method and --out are for heat maps; with --loss, say --label"
            )
        return explain_losses(run, pictures, truth, as_json, device)
    if truth is not None:
        raise UsageError("--label goes with --loss; for a heat map, say --class")
    waiting_for("looking at the pictures")
    from eyebright import explain as library
    from eyebright.data.folders import list_pictures
    from eyebright.run import Run

    library.check_method(method)
    paths = list_pictures(pictures)
    on_a_sheet = output is not None and output.suffix.lower() == ".png"
    if on_a_sheet and len(paths) > MOST_ON_A_SHEET:
        raise UsageError(
            f"{len(paths):,} pictures are too many for one sheet (at most {MOST_ON_A_SHEET}); name "
            "a folder: -o explained"
        )
    files = _files(paths, output)
    classifier = Run(run).classifier(device)
    rows, cards = [], []
    with progress_bar("explaining", len(paths)) as bar:
        for path, file in zip(paths, files, strict=True):
            found = library.explain(classifier, path, label, method)
            cards.append(draw_card(found))
            if not on_a_sheet:
                _write(cards.pop(), file)
            rows.append(_row(path, found, file))
            if not as_json:
                say(_line(path, found) + ("" if on_a_sheet else f"; written: {shown(file)}"))
            bar.advance()
    if on_a_sheet:
        _write(_below_each_other(cards), files[0])
    if as_json:
        print(json.dumps(rows, indent=2))
    elif on_a_sheet:
        say(f"written: {shown(files[0])}")
    return None


def draw_card(found: Any) -> Any:
    """A picture, the same with its heat, and above them the class with its probability.

    Args:
        found: an `Explanation`.
    """
    from PIL import Image, ImageDraw, ImageFont

    card = Image.new("RGB", (2 * SIDE + 3 * GAP, SIDE + TEXT + 2 * GAP), "white")
    pen, large, small = ImageDraw.Draw(card), ImageFont.load_default(20), ImageFont.load_default(14)
    title, tail = shown(found.label), f"  {100 * found.probability:.1f} %"
    while pen.textlength(title + tail, font=large) > 2 * SIDE + GAP and len(title) > 2:
        title = title[:-2] + "…"
    pen.text((GAP, GAP - 4), title + tail, fill="#1b2430", font=large)
    pen.text((GAP, GAP + 24), f"{found.method}: {_where(found)}", fill="#5c6877", font=small)
    card.paste(found.picture(SIDE), (GAP, GAP + TEXT))
    card.paste(found.overlay(SIDE), (2 * GAP + SIDE, GAP + TEXT))
    return card


def _below_each_other(cards: list[Any]) -> Any:
    from PIL import Image

    height = cards[0].height
    sheet = Image.new("RGB", (cards[0].width, height * len(cards)), "white")
    for i, card in enumerate(cards):
        sheet.paste(card, (0, i * height))
    return sheet


def _files(paths: list[Path], output: Path | None) -> list[Path]:
    """The file for each picture, no two the same; or the sheet, over and over."""
    if output is not None and output.suffix.lower() == ".png":
        if not output.parent.is_dir():
            raise UsageError(f"{shown(output)}: there is no folder {shown(output.parent)}")
        return [output] * len(paths)
    if output is not None and output.suffix and not output.is_dir():
        raise UsageError(f"{shown(output)}: heat maps are .png files; or name a folder")
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{shown(output)}: {error.strerror or error}") from None
    files: list[Path] = []
    for path in paths:
        file, number = (output or Path()) / f"explain-{path.stem}.png", 1
        while file in files:
            number += 1
            file = file.with_name(f"explain-{path.stem}-{number}.png")
        files.append(file)
    return files


def _write(image: Any, file: Path) -> None:
    import io

    from eyebright.files import write_file

    content = io.BytesIO()
    image.save(content, "PNG")
    write_file(file, content.getvalue())


def _where(found: Any) -> str:
    share = found.share()
    if not share:
        return "nothing in the picture speaks for it"
    percent = f"{100 * share:.0f}" if share >= 0.01 else f"{100 * share:.1f}"
    return f"half of the heat lies in {percent} % of the picture"


def _line(path: Path, found: Any) -> str:
    line = f"{shown(path)}: {shown(found.label)} {100 * found.probability:.1f} %, {_where(found)}"
    line += f" ({found.method}"
    if found.agreement is not None:
        line += f"; rank correlation with {_other(found)} {found.agreement:.2f}"
    return line + ")"


def _other(found: Any) -> str:
    """What the map was checked by."""
    return "HiResCAM" if found.method == "integrated gradients" else "integrated gradients"


def _row(path: Path, found: Any, file: Path) -> dict[str, Any]:
    return {
        "picture": as_text(path),
        "class": found.label,
        "probability": found.probability,
        "method": found.method,
        "half_of_heat_in": found.share(),
        "agreement": found.agreement,
        "file": as_text(file),
    }
