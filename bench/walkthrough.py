"""Runs the code of ``docs/lesson.md`` on the whole of CIFAR-10 and keeps what it printed.

    python -m bench.walkthrough /tmp/lesson                    # all of it, in two passes:
    python -m bench.walkthrough /tmp/lesson --only bash        # the commands
    python -m bench.walkthrough /tmp/lesson --only python      # the plain lesson, about 4 minutes

Every block of the page is run as it stands, the commands first, since the Python reads their run;
the folder is a new one, or the runs would get other names.
``results/lesson-page.md`` gets each block with all that it printed, and ``docs/`` the pictures that
``plt.show`` would have shown; a test holds the page to both. torchvision's CIFAR10 reads the copy
in ``$EYEBRIGHT_DATA``, whatever folder the page names.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.peers import AnyCIFAR10
from bench.rows import RESULTS, describe_here
from eyebright.data.cache import data_home

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "lesson.md"
SHOWN = RESULTS / "lesson-page.md"
PICTURES = ("lesson-batch.png", "lesson-test.png")
"""What the page shows with ``imshow``, in this order."""

Blocks = list[tuple[str, str, str | None]]
"""Language, code and what it prints."""


class CopyOfCIFAR10(AnyCIFAR10):
    """torchvision's CIFAR10 on the data at hand, asked for as the lesson asks for the published."""

    def __init__(self, root: str, train: bool, download: bool, transform: Any):
        super().__init__(root=str(data_home()), train=train, transform=transform)


def blocks_of(text: str) -> Blocks:
    """The blocks of code of a page, each with the block of output that stands below it, if any."""
    block = r"^```(python|bash)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?"
    found = re.findall(block, text, re.MULTILINE | re.DOTALL)
    return [(language, code, output or None) for language, code, output in found]


class Overheard(io.StringIO):
    """Keeps what is printed, and shows it too."""

    def write(self, text: str) -> int:
        """Both."""
        print(text, end="", file=sys.__stdout__, flush=True)
        return super().write(text)


def run_commands(code: str) -> str:
    """What the commands of a block print."""
    printed = []
    for line in code.splitlines():
        done = subprocess.run(line, shell=True, check=True, stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="", flush=True)
        printed.append(done.stdout)
    return "".join(printed)


def run_python(code: str, names: dict[str, Any]) -> str:
    """What a block of Python prints; what it defines stays in ``names``."""
    with contextlib.redirect_stdout(Overheard()) as printed:
        exec(compile(code, str(PAGE), "exec"), names)
    return printed.getvalue()


def save_what_is_shown() -> None:
    """Let ``plt.show`` write its figures into ``docs/``, and torchvision read the copy."""
    import matplotlib
    import matplotlib.pyplot as plt
    import torchvision

    matplotlib.use("Agg")
    left = list(PICTURES)

    def save() -> None:
        plt.savefig(PAGE.parent / left.pop(0), bbox_inches="tight", dpi=80)
        plt.close()

    plt.show = save  # type: ignore[assignment]  # takes no arguments: the page gives none
    torchvision.datasets.CIFAR10 = CopyOfCIFAR10


def as_text(blocks: Blocks, where: dict[str, str]) -> str:
    """The file of results."""
    lines = [
        "# What `docs/lesson.md` printed\n",
        "Written by `python -m bench.walkthrough`, never by hand. Data: the JPEG copy of CIFAR-10",
        "(all 60,000 pictures at quality 75), its own 10,000 test pictures. "
        + ", ".join(f"{key} {value}" for key, value in where.items() if key != "command")
        + ".\n",
    ]
    for language, code, output in blocks:
        lines.append(f"```{language}\n{code}```\n")
        if output:
            lines.append(f"```text\n{output.rstrip()}\n```\n")
    return "\n".join(lines)


def main() -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the runs are written")
    parser.add_argument("--only", choices=("bash", "python"), help="the others are kept")
    arguments = parser.parse_args()
    before = blocks_of(SHOWN.read_text(encoding="utf-8")) if SHOWN.exists() else []
    printed = {(language, code): output for language, code, output in before}
    blocks = blocks_of(PAGE.read_text(encoding="utf-8"))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    save_what_is_shown()
    names: dict[str, Any] = {}
    for wanted in ("bash", "python"):
        for language, code, _ in blocks:
            if language == wanted and arguments.only in (None, wanted):
                run = run_commands(code) if language == "bash" else run_python(code, names)
                printed[language, code] = re.sub(r" *\n", "\n", run)
    shutil.copy("look-cifar10.png", PAGE.parent / "lesson-look.png")
    done: Blocks = [(lang, code, printed.get((lang, code))) for lang, code, _ in blocks]
    SHOWN.write_text(as_text(done, describe_here()), encoding="utf-8")


if __name__ == "__main__":
    main()
