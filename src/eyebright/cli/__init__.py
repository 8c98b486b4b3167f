"""The command line: one table of verbs, with no logic of their own.

Nothing heavy is imported here, so that ``--help`` answers at once; each verb imports what it calls.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from eyebright.cli.explaining import explain
from eyebright.cli.judging import compare, report, test, val
from eyebright.cli.keeping import doctor, runs
from eyebright.cli.mistakes import explain_mistake
from eyebright.cli.pictures import audit, convert, look
from eyebright.cli.searching import tune
from eyebright.cli.shipping import export, serve
from eyebright.cli.training import train
from eyebright.cli.using import embed, predict
from eyebright.console import as_text, err, say
from eyebright.errors import EyebrightError, StorageError

# In the order of the help, each with an example. A new verb is a new line here.
VERBS: dict[Callable[..., None], str] = {
    look: "eyebright look my-pictures -n 64",
    audit: "eyebright audit my-pictures --review",
    convert: "eyebright convert my-pictures shards --shard-size 256M",
    train: "eyebright train my-pictures --name pets --time 5m",
    tune: "eyebright tune my-pictures --trials 30 --time 30m",
    val: "eyebright val runs/pets",
    test: "eyebright test runs/pets --interval exact",
    report: "eyebright report runs/pets --lang zh",
    compare: "eyebright compare runs/pets runs/pets-2",
    runs: "eyebright runs",
    doctor: "eyebright doctor",
    predict: "eyebright predict runs/pets my-pictures -o answers.csv",
    embed: "eyebright embed runs/pets my-pictures -o features.parquet",
    explain: "eyebright explain runs/pets cat.jpg",
    export: "eyebright export runs/pets --int8",
    serve: "eyebright serve runs/pets --port 8080",
}


def _without_kinds_of_flags(params: list[Any]) -> list[Any]:
    """For the help, which would say that a flag takes a ``bool``; it takes nothing."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


class _Verb(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_kinds_of_flags(super().get_params(ctx))


class _Verbs(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_kinds_of_flags(super().get_params(ctx))


app = typer.Typer(
    name="eyebright",
    cls=_Verbs,
    help="Train image classifiers that see clearly and say how sure they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"eyebright {version('eyebright')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it, and stop.")
    ] = False,
) -> None:
    """Train image classifiers that see clearly and say how sure they are."""


for verb, example in VERBS.items():
    app.command(cls=_Verb, epilog=f"Example: {example}")(verb)


def run_app(arguments: list[str] | None = None) -> int:
    """Run the command line and say what went wrong in one line.

    Args:
        arguments: without the program's name; None: the process's own.

    Returns:
        The exit code: 0, or as in `eyebright.errors`; 2 for a usage error, 130 for Ctrl-C.
    """
    try:
        code = app(args=arguments, standalone_mode=False)
    except EyebrightError as error:
        who = f"eyebright (rank {rank})" if (rank := os.environ.get("RANK")) else "eyebright"
        err.print(as_text(f"{who}: {error}"), soft_wrap=True)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except MemoryError:
        err.print("eyebright: out of memory; use fewer pictures, or smaller ones (--imgsz)")
        return StorageError.exit_code
    except Exception as error:
        # Usage errors: typer's own class, or click's in older releases; both explain themselves.
        if not hasattr(error, "format_message"):
            raise
        if message := explain_mistake(error):  # none where the help was printed instead
            err.print(f"eyebright: {message}", soft_wrap=True)
        return int(getattr(error, "exit_code", 2))
    return code if isinstance(code, int) else 0
