"""Labels that may be wrong: what nets that never saw a picture say of it."""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from eyebright.audit.findings import Finding
from eyebright.calibration import softmax
from eyebright.config import TrainConfig, recipe_config
from eyebright.console import notices, progress_bar, shown
from eyebright.data import Dataset
from eyebright.data.folders import SMALL
from eyebright.data.labels import table_ids
from eyebright.data.splits import stratified_folds
from eyebright.errors import StorageError, UsageError
from eyebright.evaluation import read_evaluation
from eyebright.launch import train
from eyebright.metrics import Floats
from eyebright.prepare import prepare_net
from eyebright.pretrained import Weights, find_weights
from eyebright.probe import cached_features, fit_probe, regression

FOLDS, FOLDS_OF_NETS = 5, 2
NET = "white16"  # for small pictures: quick, and too small to learn wrong labels by heart
EPOCHS = 8


def can_be_judged(data: Dataset) -> bool:
    """Whether wrong labels can be looked for; a notice says why not, where there are labels.

    Raises:
        UsageError: cleanlab is not installed.
    """
    if len(data.classes) < 2:
        return False
    if find_spec("cleanlab") is None:
        raise UsageError(
            'wrong labels are found with cleanlab: pip install "eyebright[audit]", or look for '
            "the rest: --quick"
        )
    counts = data.counts()
    if counts.min() < FOLDS_OF_NETS:
        notices.warning(
            "labels are not judged: the class '%s' has %d picture%s, and a model needs two",
            shown(data.classes[int(counts.argmin())]), counts.min(), "s" * (counts.min() != 1),
        )  # fmt: skip
        return False
    return True


def label_suspects(
    data: Dataset, tell: Callable[[str], None], part: str = "train"
) -> list[Finding]:
    """Pictures whose label is probably wrong, the surest first.

    Each picture is judged by a model that was not fitted to it; which of its disagreements are the
    label's fault, confident learning decides (Northcutt, Jiang & Chuang 2021, "Confident learning:
    estimating uncertainty in dataset labels"). They are ranked by the odds of the likeliest class
    against the given one, which tell more than their difference does where the model is sure.

    Args:
        data: such as `can_be_judged` says yes to.
        tell: told what takes so long.
        part: its name, for the ids.

    """
    from cleanlab.filter import find_label_issues

    probabilities = out_of_fold(data, tell)
    found = np.flatnonzero(find_label_issues(data.labels, probabilities, n_jobs=1))
    names, guesses = table_ids(data, part), probabilities.argmax(1)
    everyone = np.arange(len(data))
    likeliest, given = probabilities[everyone, guesses], probabilities[everyone, data.labels]
    odds = likeliest / np.maximum(given, np.finfo(np.float64).tiny)
    issues = found[np.argsort(-odds[found], kind="stable")]
    return [
        Finding(
            "label",
            names[i],
            data.classes[data.labels[i]],
            data.classes[guesses[i]],
            round(float(odds[i] / (1 + odds[i])), 6),
            f"a model that never saw it: {100 * probabilities[i, guesses[i]]:.0f} % "
            f"{data.classes[guesses[i]]}, {100 * probabilities[i, data.labels[i]]:.0f} % "
            f"{data.classes[data.labels[i]]}",
        )
        for i in issues.tolist()
        if guesses[i] != data.labels[i]
    ]


def out_of_fold(data: Dataset, tell: Callable[[str], None]) -> Floats:
    """Probabilities (n, classes), each picture's by a model that was not fitted to it.

    Large pictures: a linear probe on the features of a pretrained backbone, `FOLDS` folds. Small
    ones, or where no weights are to be had: nets trained from nothing, `FOLDS_OF_NETS` folds.
    """
    if data.imgsz > SMALL:
        config = recipe_config("finetune").replace(imgsz=data.imgsz)
        try:
            weights = find_weights(config, data.imgsz)
        except StorageError as error:
            notices.warning("%s", error)
        else:
            return probed(data, config, weights)
    return trained(data, tell)


def probed(data: Dataset, config: TrainConfig, weights: Weights | None) -> Floats:
    """Out-of-fold probabilities of a linear probe on the features of a backbone."""
    model = weights.model if weights else config.model
    config = config.replace(model=model)
    net, normalization = prepare_net(None, config, data, data, weights)
    features = cached_features(net, data, normalization, "none")
    penalty = fit_probe(features, data.labels, len(data.classes), config).penalty
    scale = features.std(0)
    x = ((features - features.mean(0)) / np.where(scale > 0, scale, 1)).astype(np.float64)
    folds = min(FOLDS, int(data.counts().min()))
    fold_of = stratified_folds(data.labels, folds, seed=0)
    logits = np.empty((len(x), len(data.classes)))
    with progress_bar("judging labels", folds) as bar:
        for fold in range(folds):
            kept, out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            share = penalty * len(kept) / len(x)
            weight, bias = regression(x, data.labels, True, None, kept, share)
            logits[out] = x[out] @ weight.T + bias
            bar.advance()
    return softmax(logits)


def trained(data: Dataset, tell: Callable[[str], None]) -> Floats:
    """Out-of-fold probabilities of nets trained from nothing."""
    position = {str(name): i for i, name in enumerate(data.ids)}
    found: NDArray[np.float64] = np.empty((len(data), len(data.classes)))
    tell(f"{FOLDS_OF_NETS} nets are trained, each on what another one judges")
    with (
        tempfile.TemporaryDirectory() as runs,
        progress_bar("training to judge labels", FOLDS_OF_NETS) as bar,
    ):
        for fold in range(1, FOLDS_OF_NETS + 1):
            run = train(
                data,
                recipe="fast",
                model=NET,
                epochs=EPOCHS,
                folds=FOLDS_OF_NETS,
                fold=fold,
                runs=runs,
                tta="mirror" if data.mirrors else "none",
                quiet=True,
            )
            judged = read_evaluation(run.path, "val")
            found[[position[str(name)] for name in judged.ids]] = judged.probabilities
            bar.advance()
    return found
