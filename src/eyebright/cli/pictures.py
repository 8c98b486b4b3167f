"""The verbs for pictures: look, audit, convert."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from eyebright.cli.options import (
    DATA_HELP,
    DataArgument,
    Imgsz,
    Labels,
    Lang,
    MaxPixels,
    Root,
    SkipBad,
    Workers,
    save_png,
)
from eyebright.console import counted, out, say, shown, waiting_for
from eyebright.errors import UsageError


def look(
    data: DataArgument = "cifar10",
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Pictures to show.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the random choice.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="PNG to write. Default: look-<data>.png.")
    ] = None,
    imgsz: Imgsz = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
    root: Root = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Look at training pictures with their labels, and at what there is of each class."""
    waiting_for("reading the pictures")
    from eyebright.data import load
    from eyebright.data.look import terminal_grid

    source = "cifar10" if data is None else data
    pictures = load(
        source, imgsz=imgsz, skip_bad=skip_bad, workers=workers, labels=labels, root=root
    )
    seen = pictures.look(count, seed)
    path = output or Path(f"look-{seen.data.name}.png")
    save_png(seen.image(), path)
    if out.is_terminal and out.color_system is not None:
        out.print(terminal_grid(seen.images, seen.labels, out.width))
    else:
        for line in seen.label_lines():
            say(line)
    out.print(seen.table())
    for line in seen.summary():
        say(line)
    say(f"grid: {shown(path)}")


def audit(
    data: DataArgument = "cifar10",
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not look for wrong labels, which takes longest.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Tested on these data: its accuracy with and without leaks."
        ),
    ] = None,
    review: Annotated[
        bool,
        typer.Option("--review", help="Then open a page to keep, relabel or drop what was found."),
    ] = False,
    port: Annotated[int, typer.Option(min=0, help="Of the page; 0: any.")] = 0,
    lang: Lang = "en",
    drop: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=1,
            metavar="SCORE",
            help="Also decide to drop pictures whose label is this surely wrong: 0.9.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 where anything was found.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write. Default: audit-<data>.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table of decisions to apply; with --review or --drop: where they go.",
        ),
    ] = None,
    root: Root = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Look for bad pictures, copies, leaks and wrong labels before anyone trains."""
    waiting_for("reading the pictures")
    from eyebright.audit import audit as find_all
    from eyebright.audit.found import findings_before, write_audit
    from eyebright.audit.inspect import drop_suspects, load_parts
    from eyebright.audit.review import Review
    from eyebright.data.decisions import read, table_beside

    if review and (as_json or strict or run or drop is not None):
        raise UsageError("--review is for people: leave out --json, --strict, --run and --drop")
    if drop is not None and (quick or run):
        raise UsageError("--drop looks for wrong labels in data as they are: no --quick, no --run")
    source = "cifar10" if data is None else data
    # Decisions are made on what was found without them.
    applied = None if review or drop is not None else labels
    parts = load_parts(source, labels=applied, root=root, workers=workers)
    folder = output or Path(f"audit-{parts['train'].name}")
    if Path(source).resolve() in folder.resolve().parents:
        raise UsageError(f"{shown(folder)} would lie among the pictures; name another: -o FOLDER")
    table = labels or table_beside(parts["train"])
    if drop is not None and table.exists():
        read(table)  # a mistake is better known before all is looked at
    if review:
        Review(parts, [], table, lang)  # a mistake is better known before all is looked at
        findings = findings_before(parts, folder, not quick)
        if findings is not None:
            say(f"taken up again: {shown(folder)}")
            return _review(parts, findings, table, port, lang)
    tell = (lambda text: None) if as_json else say
    found = find_all(
        source, run=run, wrong_labels=not quick, labels=applied, tell=tell, parts=parts
    )
    write_audit(found, folder)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        out.print(found.table())
        say(f"everything found, and sheets of it: {shown(folder)}")
        if not (review or run or drop is not None or found.found_nothing):
            words = ["eyebright", "audit", str(source), *["--quick"] * quick, "--review"]
            say(f"decide on each picture: {shown(shlex.join(words))}")
    if drop is not None:
        dropped = drop_suspects(found, drop, table)
        where = f": {shown(table)} (use it with --labels)" if dropped else ""
        tell(f"{counted(dropped, 'suspect label')} dropped{where}")
    if review:
        return _review(parts, found.findings(), table, port, lang)
    if strict and not found.found_nothing:
        raise typer.Exit(3)
    return None


def _review(parts: Any, findings: Any, table: Path, port: int, lang: str) -> None:
    from eyebright.audit.review_server import serve_review

    if not findings:
        return say("nothing to review")
    return serve_review(parts, findings, table, port, lang)


def convert(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    shard_size: Annotated[str, typer.Option(help="Of each tar file: 64M, 1G.")] = "128M",
    imgsz: Annotated[
        int | None,
        typer.Option(help="Resize once, px, and write PNG. Default: files stay as they are."),
    ] = None,
    skip_bad: SkipBad = False,
    root: Root = None,
    workers: Workers = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Write pictures into tar shards, for data that are larger than the memory."""
    waiting_for("listing the pictures")
    from eyebright.conversion import convert as convert_all
    from eyebright.conversion import parse_size

    index = convert_all(
        data, folder, shard_size=parse_size(shard_size), imgsz=imgsz, skip_bad=skip_bad,
        workers=workers, root=root,
    )  # fmt: skip
    for name, part in index.parts.items():
        megabytes = sum(shard.bytes for shard in part.shards) / 1e6
        pictures, shards = counted(part.pictures, "picture"), counted(len(part.shards), "shard")
        say(f"{name}: {pictures} in {shards}, {megabytes:,.1f} MB")
    say(f"train on them: eyebright train {shlex.quote(shown(folder))}")
