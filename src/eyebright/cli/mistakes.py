"""What is said of a command that was mistyped: what was given, what is expected, what was meant."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyebright.console import nearest, shown
from eyebright.errors import ModelError
from eyebright.nearby import RUNS, holds_run, newest_runs, runs_there

KINDS = {"int": "a whole number", "float": "a number"}  # what typer calls what it cannot read
BOUNDS = {"ge": "at least", "le": "at most"}
SHOWN = 3  # pictures in a command that is proposed


def explain_mistake(error: Any) -> str:
    """A usage error of typer in our words, or in its own where it needs no others.

    Args:
        error: of typer, or of click, which older releases of it bring along.
    """
    kind, context = type(error).__name__, getattr(error, "ctx", None)
    said = " ".join(error.format_message().split())
    if found := re.fullmatch(r"Option '(-[^']+)' requires an argument\.", said):
        return f"{found[1]} needs a value after it"
    if context is None or not said:  # nothing is said where the help was printed instead
        return said
    more = f"see {_command(context)} --help"
    if kind == "NoSuchOption":
        options = [one for param in context.command.params for one in param.opts]
        guess = nearest(error.option_name, [one for one in options if one.startswith("--")])
        return f"{_verb(context)} has no option {shown(error.option_name)}{guess or f' ({more})'}"
    if kind == "MissingParameter":
        return _missing(error.param, context)
    if kind == "BadParameter" and error.param is not None:
        return _wrong(error) or f"{said} ({more})"
    if found := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", said):
        taken = f"only {_taken(context)}" if _arguments(context) else "no argument"
        return (
            f"{_verb(context)} takes {taken}: '{shown(found[1])}' is too much (a name with spaces "
            f"needs quotes; {more})"
        )
    if found := re.match(r"No such command '(.*?)'\.", said):
        verbs = list(context.command.commands)
        guess = nearest(found[1], verbs) or f"; choose one of: {', '.join(verbs)}"
        return f"no command is called '{shown(found[1])}'{guess}"
    return f"{said} ({more})"


def check_order(verb: str, run: Path, others: Sequence[object]) -> None:
    """See that the run comes first, and not the pictures.

    Args:
        verb: that takes both; predict takes exported models, too.
        run: what was named first.
        others: what was named after it.

    Raises:
        ModelError: what was named first is no run, and one of the others is; or it is a file.
    """
    if holds_run(run) or _is_model(run):
        return
    found = [other for other in others if holds_run(Path(str(other))) or _is_model(other)]
    if found:
        rest = [other for other in (run, *others) if other != found[0]]
        words = ["eyebright", verb, *map(shown, [found[0], *rest[:SHOWN]])]
        command = shlex.join(words) + " ..." * (len(rest) > SHOWN)
        raise ModelError(
            f"{shown(run)} is no run; the run comes first, then the pictures: {command}"
        )
    if run.is_file():
        what = "neither a run folder nor an .onnx file" if verb == "predict" else "no run folder"
        raise ModelError(
            f"{shown(run)}: {what}; the run comes first, then the pictures; {runs_there()}"
        )


def _is_model(path: object) -> bool:
    return Path(str(path)).suffix.lower() == ".onnx"


def _verb(context: Any) -> str:
    return str(context.info_name) if context.parent is not None else "eyebright"


def _command(context: Any) -> str:
    return f"eyebright {context.info_name}" if context.parent is not None else "eyebright"


def _arguments(context: Any) -> list[Any]:
    return [one for one in context.command.params if one.param_type_name == "argument"]


def _taken(context: Any) -> str:
    """The arguments of a verb: ``RUN [DATA]``."""
    names = []
    for one in _arguments(context):
        name = f"{one.metavar or one.name}{'...' * (one.nargs == -1)}"
        names.append(name if one.required else f"[{name}]")
    return " ".join(names)


def _missing(param: Any, context: Any) -> str:
    """What to say where an argument is missing."""
    name = str(param.metavar or param.name)
    line = f"{_verb(context)} needs {name}: {_command(context)} {_taken(context)}"
    if name != "RUN":
        return line
    if runs := newest_runs():
        return f"{line}; the newest in {RUNS}/: {', '.join(map(shown, runs))}"
    return f"{line}; none is in {RUNS}/ yet: eyebright train DATA makes one"


def _wrong(error: Any) -> str | None:
    """What to say of a value of the wrong kind; None where typer does not tell which it was."""
    param = error.param
    cause: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not cause:
        return None
    given, limits = cause[0].get("input"), cause[0].get("ctx", {})
    name = param.metavar or param.name
    if param.param_type_name == "option":
        name = max(param.opts, key=len)
    for key, words in BOUNDS.items():
        if key in limits:
            return f"{name} must be {words} {limits[key]:g}, not {given}"
    kind = KINDS.get(str(cause[0].get("type", "")).split("_")[0])
    if kind is None:
        return None
    return f"{name} cannot be '{shown(given)}': it takes {kind}"
