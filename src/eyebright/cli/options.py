"""What the verbs share: their options, which are called and mean the same everywhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from eyebright.cli.completing import one_of, run_folders, setting
from eyebright.console import shown
from eyebright.errors import StorageError

DATA_HELP = (
    "cifar10, cifar100, mnist, fashion-mnist, digits; a folder of class folders (flat, or with "
    "train/val/test) or a zip or tar of one; a table (.csv, .tsv, .jsonl, .parquet) with path, "
    "label and perhaps split; a folder with metadata.csv as Hugging Face has it; or an official "
    "CIFAR-10 folder or archive"
)
DataArgument = Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP)]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=run_folders)
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on without unreadable pictures.")]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder of a table's paths. Default: the table's own."),
]
Workers = Annotated[
    int | None, typer.Option("-j", "--workers", min=0, help="Threads that decode pictures.")
]
Imgsz = Annotated[
    int | None,
    typer.Option(
        help="Side of the square pictures, px. Default: their own if all alike and small, "
        "32 up to 64 px, 224 above."
    ),
]
Interval = Annotated[
    str,
    typer.Option(
        help="Of proportions: wilson or exact (Clopper-Pearson).",
        autocompletion=one_of("wilson", "exact"),
    ),
]
Lang = Annotated[
    str, typer.Option(help="Of the page: en or zh (中文).", autocompletion=one_of("en", "zh"))
]
Risk = Annotated[
    float | None,
    typer.Option(help="Answer only where at most this share is wrong, with 95 % confidence: 0.01."),
]
Coverage = Annotated[
    float | None, typer.Option(help="Sets of classes that hold the true one this often: 0.9.")
]
Labels = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A table of decisions: pictures to drop or to relabel."),
]
Group = Annotated[
    str | None,
    typer.Option(help="Column of a table: its groups are held out whole or not at all."),
]
Precision = Annotated[
    str | None, typer.Option(help="auto, fp32 or bf16.", autocompletion=setting("precision"))
]
Threads = Annotated[int | None, typer.Option(help="Processor threads; 0: all cores.")]
Runs = Annotated[Path, typer.Option(help="The folder of runs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


def _limit_pixels(most: int | None) -> None:
    if most is not None:
        from eyebright.images import limit_pixels

        limit_pixels(most)


MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        callback=_limit_pixels,
        help="Refuse pictures of more pixels than this. Default: 67108864; serve: 16777216.",
    ),
]


def save_png(image: Any, path: Path) -> None:
    """Write a picture.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    try:
        image.save(path, "PNG")
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None
