"""Three reports and what they look like: a tutorial run, a fast run and the long-tailed one.

    python -m bench.reports $EYEBRIGHT_DATA/cifar10-folder/cifar10-longtail.csv

Trains, opens CIFAR-10's test set (with ``--shift`` for the fast run), writes the reports into
``runs/`` and their screenshots into ``docs/``. Needs chromium and playwright.
"""

import argparse
from pathlib import Path
from typing import Any

import eyebright
from bench.guides import DOCS, opened
from eyebright.report import write_report

# run -> width and height of the screen, its colours, the language
SHOTS: dict[str, tuple[int, int, str, str]] = {
    "tutorial": (1140, 1300, "light", "en"),
    "fast": (1140, 1300, "dark", "en"),
    "longtail": (390, 1300, "light", "zh"),
}


def make_runs(longtail: Path, runs: Path) -> dict[str, eyebright.Run]:
    """Train and test the three, but for those that are there already."""
    wanted: dict[str, tuple[Any, str]] = {
        "tutorial": ("cifar10", "tutorial"),
        "fast": ("cifar10", "fast"),
        "longtail": (longtail, "fast"),
    }
    made = {}
    for name, (data, recipe) in wanted.items():
        folder = runs / f"report-{name}"
        if folder.is_dir():
            made[name] = eyebright.Run(folder)
            continue
        run = eyebright.train(data, name=folder.name, runs=runs, recipe=recipe)
        named = None if data == "cifar10" else "cifar10"
        evaluation = run.test(named, shift=name == "fast")
        write_report(run, evaluation=evaluation)
        made[name] = run
    return made


def photograph(run: eyebright.Run, name: str) -> None:
    """A screenshot of the first screens of a run's report, and one of a confusion cell opened."""
    width, height, scheme, language = SHOTS[name]
    write_report(run, language)
    with opened(language, width, height, scheme) as page:
        page.goto((run.path / "report.html").resolve().as_uri())
        page.screenshot(path=DOCS / f"report-{name}.png")
        if name == "fast":
            mistakes = page.locator("#confusion")
            mistakes.locator("[data-cell]").nth(3).click()
            mistakes.screenshot(path=DOCS / "report-confusion.png")
    write_report(run)


def main() -> None:
    """Make the runs and their pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="the long-tailed CIFAR-10")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    for name, run in make_runs(arguments.table, arguments.runs).items():
        photograph(run, name)


if __name__ == "__main__":
    main()
