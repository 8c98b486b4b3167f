"""Labels that may be wrong: what nets that never saw a picture say of it."""

import contextlib
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from eyebright.audit.findings import NEVER_SAW, Finding
from eyebright.batches import predict_logits
from eyebright.calibration import fit_temperature, softmax
from eyebright.choices import decide
from eyebright.config import fit_to_data
from eyebright.console import counted, notices, shown
from eyebright.data import Dataset
from eyebright.data.decisions import table_ids
from eyebright.data.reading import SMALL
from eyebright.data.splits import stratified_folds
from eyebright.errors import ModelError, StorageError, UsageError, install_command
from eyebright.features import cached_features
from eyebright.metrics import Floats
from eyebright.prepare import prepare_net
from eyebright.pretrained import find_weights
from eyebright.probe import out_of_fold_logits
from eyebright.recipes import recipe_config
from eyebright.runtime import choose_device, explained, set_up
from eyebright.training import fit

NET = "white16"  # for small pictures: quick, and too small to learn wrong labels by heart
LENGTH = {"epochs": 4, "min_steps": 200}
MANY = 0.25  # share of labels that are disagreed with, above which more models are asked
NO_ROOM = "look for the rest: --quick"
ENLARGED = 64  # px: pictures made for backbones show their objects larger


def can_be_judged(data: Dataset) -> bool:
    """Whether wrong labels can be looked for; a notice says why not, where there are labels.

    Raises:
        UsageError: cleanlab is not installed.
    """
    if len(data.classes) < 2:
        return False
    if find_spec("cleanlab") is None:
        raise UsageError(
            f"wrong labels are found with cleanlab: {install_command('audit')}, or look for "
            "the rest: --quick"
        )
    counts = data.counts()
    if counts.min() < 2:
        notices.warning(
            "labels are not judged: the class '%s' has %s, and a model needs two",
            shown(data.classes[int(counts.argmin())]),
            counted(int(counts.min()), "picture"),
        )
        return False
    return True


def label_suspects(data: Dataset, tell: Callable[[str], None]) -> list[Finding]:
    """Pictures whose label is probably wrong, the surest first.

    Each picture is judged by models that were not fitted to it. How many labels are wrong,
    confident learning says (Northcutt, Jiang & Chuang 2021, "Confident learning: estimating
    uncertainty in dataset labels"); which, the odds of the likeliest class against the given one:
    they tell more than their difference does where the model is sure.

    Args:
        data: such as `can_be_judged` says yes to.
        tell: told what takes so long.
    """
    from cleanlab.count import num_label_issues

    probabilities = out_of_fold(data, tell)
    names, guesses = table_ids(data), probabilities.argmax(1)
    everyone = np.arange(len(data))
    likeliest, given = probabilities[everyone, guesses], probabilities[everyone, data.labels]
    odds = likeliest / np.maximum(given, np.finfo(np.float64).tiny)
    wrong = num_label_issues(data.labels, probabilities, estimation_method="off_diagonal")
    ranked = np.argsort(-odds, kind="stable")
    issues = ranked[guesses[ranked] != data.labels[ranked]][:wrong]
    return [
        Finding(
            "label",
            names[i],
            data.classes[data.labels[i]],
            data.classes[guesses[i]],
            round(float(odds[i] / (1 + odds[i])), 6),
            NEVER_SAW.format(
                sure=100 * likeliest[i],
                guess=data.classes[guesses[i]],
                less=100 * given[i],
                given=data.classes[data.labels[i]],
            ),
        )
        for i in issues.tolist()
    ]


def out_of_fold(data: Dataset, tell: Callable[[str], None]) -> Floats:
    """Calibrated probabilities (n, classes), each picture's by models that were not fitted to it.

    Large pictures: a linear probe on the features of a pretrained backbone. Small ones, or where no
    weights are to be had: nets trained from nothing, each on one half to judge the other. Where
    they disagree with many labels, either those are wrong or the nets know little: then other nets
    are asked too, and the probe. Several opinions are multiplied (Hinton 2002, "Training products
    of experts by minimizing contrastive divergence").
    """
    if data.imgsz > SMALL:
        try:
            return calibrated(by_probe(data, data.imgsz), data.labels)
        except StorageError as error:
            notices.warning("%s", error)
    tell("two nets are trained, each on one half of the pictures, to judge the other")
    logits = by_nets(data, 0, tell)
    disagreed = float((logits.argmax(1) != data.labels).mean())
    if disagreed > MANY:
        tell(f"they disagree with {100 * disagreed:.0f} % of the labels: others are asked too")
        logits += by_nets(data, 1, tell)
        if data.imgsz <= SMALL:
            # A backbone would help, but nets are enough.
            with contextlib.suppress(StorageError, ModelError):
                logits += by_probe(data, ENLARGED)
    return calibrated(logits, data.labels)


def calibrated(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Probabilities (n, classes) at the temperature that suits the labels given.

    Confident learning takes them at their word: several opinions multiplied are too sure.
    """
    return softmax(logits, fit_temperature(logits, labels))


def by_probe(data: Dataset, imgsz: int) -> Floats:
    """Out-of-fold logits (n, classes) of a linear probe on a backbone's features at this size.

    Raises:
        StorageError: no pretrained weights are to be had, or memory ran out.
        ModelError: the weights are damaged.
    """
    config = recipe_config("finetune").replace(imgsz=imgsz)
    weights = find_weights(config, imgsz)
    model = weights.model if weights else config.model
    with explained(lambda: NO_ROOM):
        if imgsz != data.imgsz:
            data = data.subset(np.arange(len(data))).resized(imgsz)  # not its validation part
        net, normalization = prepare_net(None, config.replace(model=model), data, data, weights)
        features = cached_features(net, data, normalization, "none")
        return out_of_fold_logits(features, data.labels, config.seed)


def by_nets(data: Dataset, seed: int, tell: Callable[[str], None]) -> Floats:
    """Logits (n, classes) of nets trained from nothing, each on the pictures it does not judge.

    Raises:
        StorageError: memory ran out.
    """
    device = choose_device("auto")
    fold_of = stratified_folds(data.labels, 2, seed)
    logits = np.empty((len(data), len(data.classes)))
    # They answer with the shares of classes as they are, as the probe does.
    settings = {"model": NET, "tta": "mirror", "balance": "none", "seed": seed, **LENGTH}
    for fold in range(2):
        train_set = data.subset(np.flatnonzero(fold_of != fold))
        judged = np.flatnonzero(fold_of == fold)
        config = recipe_config("fast").replace(**settings)
        config = fit_to_data(config, len(train_set), data.imgsz)
        # Whatever the hardware, it is this net, trained for so long.
        fixed = {key: getattr(config, key) for key in ("model", "epochs", "batch_size", "lr")}
        with explained(lambda: NO_ROOM):
            config = decide(config, fixed, data, len(train_set), device)
            set_up(device, config.threads, config.seed)
            net, normalization = prepare_net(None, config, data, train_set)
            for _ in fit(net, train_set, None, config, normalization, tell):
                pass
            pictures = data.subset(judged).pixels
            logits[judged] = predict_logits(net, pictures, normalization, config.tta).numpy()
    return logits
