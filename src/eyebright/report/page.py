"""From a run folder to ``report.html`` and ``model-card.md``."""

import contextlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from eyebright.console import notices, shown
from eyebright.data import Dataset
from eyebright.errors import DataError, EyebrightError, UsageError
from eyebright.evaluation import Evaluation
from eyebright.files import MOST_FIGURES, read_json, write_file
from eyebright.lock import locked
from eyebright.records import is_of_this_model, read_evaluation
from eyebright.report.card import model_card
from eyebright.report.contents import (
    base_context,
    figures_context,
    find_warnings,
    pictures_context,
)
from eyebright.report.gallery import model_to_explain
from eyebright.report.plots import baselines_chart
from eyebright.report.words import LANGUAGES, translator
from eyebright.run import Run

RISKS = (0.05, 0.1, 0.2)  # of the promise in the report: the first that can be made


def write_report(
    run: Run,
    language: str = "en",
    evaluation: Evaluation | None = None,
    data: Dataset | None = None,
    is_locked: bool = False,
    heat: bool = True,
) -> Path:
    """Write ``report.html`` and ``model-card.md`` into a run folder.

    Args:
        run: any.
        language: ``en`` or ``zh``.
        evaluation: what the report is about. Default: what the run folder holds, of the test set
            if that has been opened.
        data: the pictures that were evaluated, if they are at hand; otherwise they are read again.
        is_locked: whoever calls it has the run folder for itself already.
        heat: show what spoke for the surest mistakes, where captum is there; it takes seconds.

    Returns:
        The path of the page.

    Raises:
        UsageError: no such language.
        ModelError: damaged files.
        StorageError: it cannot be written.
        BusyError: another process is writing into the run folder.
    """
    if language not in LANGUAGES:
        raise UsageError(f"--lang cannot be '{language}'; choose one of: {', '.join(LANGUAGES)}")
    t = translator(language)
    evaluation = evaluation or latest_evaluation(run)
    context = base_context(run, evaluation, t) | {"warnings": []}
    if evaluation is not None:
        evaluation = with_promise(run, evaluation)
        missing = False
        try:
            data = data or run.pictures(evaluation.split)
            if data.fingerprint != evaluation.fingerprint:
                raise DataError(f"{shown(data.name)}: other pictures than those evaluated")
        except EyebrightError as error:
            notices.warning("%s", error)
            data, missing = None, True
        known = run.trained_on()
        context |= figures_context(evaluation, t)
        classifier = model_to_explain(run) if heat and data is not None else None
        context |= pictures_context(evaluation, data, t, classifier)
        context["warnings"] = find_warnings(run, evaluation, t)
        if missing:
            text = "The pictures could not be read again, so none are shown."
            context["warnings"].append(t(text))
        if data is not None and known is not None:
            context["baselines"] = baselines_chart(evaluation, data, known, t)
    html = render("page.html", context | {"t": t, "language": language})
    path, card = run.path / "report.html", model_card(run, evaluation)
    with contextlib.nullcontext() if is_locked else locked(run.path):
        write_file(path, html.encode("utf-8", "backslashreplace"))
        write_file(run.path / "model-card.md", card.encode("utf-8", "replace"))
    return path


def render(name: str, context: dict[str, Any]) -> str:
    """A page of ours, filled in; what comes from outside is escaped."""
    from jinja2 import Environment, FunctionLoader

    folder = files("eyebright.report")
    loader = FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    return Environment(autoescape=True, loader=loader).get_template(name).render(context)


def with_promise(run: Run, evaluation: Evaluation) -> Evaluation:
    """With what the pictures held out promise, where they promise anything."""
    if evaluation.promises.answers:
        return evaluation
    for risk in RISKS:
        with contextlib.suppress(UsageError):  # nothing held out, or too few for so much
            held_out = evaluation if evaluation.split == "val" else run.held_out()
            answers = held_out.promise(risk).answers
            return replace(evaluation, promises=replace(evaluation.promises, answers=answers))
    return evaluation


def latest_evaluation(run: Run) -> Evaluation | None:
    """Of this model: on the test set if that has been opened, else on what was held out."""
    for split in ("test", "val"):
        if (run.path / f"predictions-{split}.csv").is_file():
            if is_of_this_model(run.path, read_json(run.path / f"{split}.json", MOST_FIGURES)):
                return read_evaluation(run.path, split)
            notices.warning("%s.json is of an earlier model of this run, and is left out", split)
    return None
