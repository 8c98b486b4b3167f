"""The verbs for what lies on this machine: runs, doctor."""

import json
from pathlib import Path
from typing import Annotated

import typer

from eyebright.cli.completing import run_names
from eyebright.cli.options import Runs
from eyebright.console import counted, out, say, shown, waiting_for
from eyebright.errors import UsageError
from eyebright.nearby import RUNS


def runs(
    folder: Annotated[Path, typer.Argument(metavar="RUNS", help="The folder of runs.")] = RUNS,
    remove: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Remove this run, after asking.", autocompletion=run_names
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List runs: data, recipe, figures, size, and whether they came to their end."""
    waiting_for("looking at the runs")
    from eyebright.listing import (
        as_megabytes,
        describe,
        find_run,
        list_runs,
        remove_run,
        runs_table,
    )

    if remove is None:
        entries = list_runs(folder)
        if as_json:
            return print(json.dumps([one.to_dict() for one in entries], indent=2))
        if not entries:
            return say(f"no runs in {shown(folder)}")
        out.print(runs_table(entries))
        return say(
            f"{counted(len(entries), 'run')}, {as_megabytes(sum(one.size for one in entries))}"
        )
    path = find_run(folder, remove)
    question = f"remove {shown(path)} ({as_megabytes(describe(path).size)}) for good?"
    try:
        sure = yes or typer.confirm(question)
    except typer.Abort:  # nobody is there to answer
        raise UsageError(f"{shown(path)} was not removed: nobody said yes (--yes)") from None
    if not sure:
        return say("nothing was removed")
    remove_run(path)
    return say(f"removed: {shown(path)}")


def doctor(
    runs: Runs = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what a report of a fault needs: versions, device, threads, caches, disk. No secrets."""
    waiting_for("looking at this machine")
    from eyebright.doctor import doctor_table, examine

    facts = examine(runs)
    if as_json:
        return print(json.dumps(facts, indent=2))
    return out.print(doctor_table(facts), soft_wrap=True)
