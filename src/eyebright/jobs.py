"""Before a training begins, or goes on: everything is decided, read and made."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyebright import compiled, distributed, images
from eyebright.augment import parse_augment
from eyebright.batches import Normalization
from eyebright.choices import begin, check_tuning, decide, is_to_be_planned
from eyebright.config import TrainConfig, flag
from eyebright.console import shown
from eyebright.convolution import winograd_pays
from eyebright.data import Dataset
from eyebright.errors import ModelError, UsageError
from eyebright.files import read_json
from eyebright.holdout import hold_out
from eyebright.memory import advice
from eyebright.plan import FILE as PLAN
from eyebright.plan import Plan, make_plan
from eyebright.prepare import nets_to_compare, prepare_net
from eyebright.pretrained import find_weights
from eyebright.records import describe_data
from eyebright.rereading import read_pictures_again
from eyebright.resume import Checkpoint
from eyebright.run import Run
from eyebright.runtime import (
    choose_device,
    describe,
    explained,
    set_up,
)
from eyebright.saver import list_checkpoints, most_bytes, newest_checkpoint
from eyebright.trained_on import TrainedOn

MACHINE = ("device", "device_name", "threads", "compiled_kernels", "minimal_filtering", "ranks")
"""What must be the same in ``env.json``, beside the packages, for a training to go on exactly."""
UNSAID = {"minimal_filtering": False, "ranks": 1}
"""What is meant where older runs do not say it."""
BEGUN = ("command", "git", "first_weights", "settings", "asked")
"""What ``env.json`` keeps of how it began."""
DATA = {
    "classes": "the classes", "fingerprint": "the pictures",
    "val_fingerprint": "the pictures held out", "splits": "the parts",
}  # fmt: skip
"""What must be the same in ``data.json``, and what it is called."""


@dataclass
class Job:
    """A training of which everything is decided."""

    config: TrainConfig
    data: Dataset
    train_set: Dataset
    val_set: Dataset | None
    skip_bad: bool
    net: nn.Module
    """On its device."""
    normalization: Normalization
    machine: dict[str, Any]
    """What ``env.json`` holds."""
    known: TrainedOn
    plan: Plan | None = None
    checkpoint: Checkpoint | None = None
    """Where to go on; None: at the beginning."""
    resumed: bool = False
    """Whether there is a run folder already."""
    was_finished: bool = False
    """Whether that run had come to its end."""
    max_pixels: int = images.DEFAULT_MAX_PIXELS
    """That a picture could have."""


def new_job(
    read_pictures: Callable[..., tuple[Dataset, TrainConfig]],
    recipe: str | None,
    settings: dict[str, Any],
    own: nn.Module | None,
    skip_bad: bool,
    started: float,
    tell: Callable[[str], None],
) -> Job:
    """A training that has not begun.

    Args:
        read_pictures: takes recipe and settings, as `read_data` does.
        recipe: as in `train`.
        settings: the user's.
        own: the user's net, if it is one.
        skip_bad: whether unreadable pictures are left out.
        started: when the clock of ``time`` began to run, of ``time.monotonic``.
        tell: told the plan.

    Raises:
        UsageError: settings that make no sense.
        DataError: data that cannot be trained on.
        ModelError: weights that cannot be used.
        StorageError: memory ran out, or there are no pretrained weights to be had.
    """
    if "time" in settings and settings.keys() & {"epochs", "max_steps"}:
        raise UsageError("--time decides how many epochs there are: leave --epochs out")
    if recipe is None and own is not None:
        recipe = "fast"
    config = begin(recipe, settings)  # a mistake is better known before the pictures are read
    if recipe is not None:
        check_tuning(config, settings)
    device = choose_device(config.device)
    parse_augment(config.augment)
    with distributed.first_of_machine():
        data, config = read_pictures(recipe, settings)
    others = {key: value for key, value in settings.items() if key != "time"}
    if "time" in settings and begin(recipe, others, data.imgsz).recipe != config.recipe:
        tell(
            "--time trains a net from nothing (recipe fast); without it these large pictures go "
            "through one that others trained, which is better where they are few"
        )
    if own is not None:
        config = config.replace(model=type(own).__qualname__)
    train_set, val_set = hold_out(data, config)
    if config.target is not None and val_set is None:
        raise UsageError("--target needs pictures held out to see it reached; use --val 0.1")
    config = decide(config, settings, data, len(train_set), device)
    check_ranks(config)
    plan = None
    with explained(lambda: advice(config)):
        set_up(device, config.threads, config.seed, config.deterministic)
        if is_to_be_planned(config, settings):
            nets = nets_to_compare(own, config, settings, data, device)
            plan = make_plan(nets, train_set, val_set, config, started)
            config = config.replace(model=plan.chosen.model, max_steps=plan.chosen.steps)
            tell(plan.line(len(train_set), config))
            # as if nothing had been tried
            set_up(device, config.threads, config.seed, config.deterministic)
        if weights := find_weights(config, data.imgsz):
            config = config.replace(model=weights.model)
        net, normalization = prepare_net(own, config, data, train_set, weights)
    machine = describe_machine(config, device)
    machine["first_weights"] = weights.source if weights else "none"
    machine["settings"] = settings
    return Job(
        config, data, train_set, val_set, skip_bad, net, normalization, machine,
        TrainedOn.learn(train_set), plan, max_pixels=images.MAX_PIXELS,
    )  # fmt: skip


def old_job(
    folder: Path,
    data: Dataset | str | os.PathLike[str] | None,
    given: dict[str, Any],
    own: nn.Module | None,
    anyway: bool,
    workers: int | None = None,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Job:
    """A training that was interrupted, as its run folder tells.

    Args:
        folder: of the run.
        data: None: what it was trained on.
        given: settings that the user names again, or otherwise.
        own: the user's net, if it was one.
        anyway: go on with what is different.
        workers: threads that decode pictures.
        labels: a table of decisions; None: the one it was trained with.
        root: the folder that a table's paths are relative to; None: what it was.

    Raises:
        UsageError: it would not go on exactly; the message says what is different.
        DataError: the data are gone.
        ModelError: no run, or no whole checkpoint.
    """
    run = Run(folder)
    config, record, before = run.config, run.data_record, read_json(folder / "env.json")
    said = before.get("settings", {})  # as the user had put it, "cuda" or a batch size too large
    if not isinstance(said, dict) or not isinstance(before.get("resumed", []), list):
        raise ModelError(f"{shown(folder / 'env.json')}: not what belongs there")
    if config.imgsz is None:
        raise ModelError(f"{shown(folder / 'config.json')}: not the settings of a run (no imgsz)")
    config.replace(**given)  # all are settings
    others = {
        key: value
        for key, value in given.items()
        if value not in ("auto", getattr(config, key), said.get(key))
    }
    differences = [f"{flag(k)} was {getattr(config, k)}, now {v}" for k, v in others.items()]
    if own is not None and type(own).__qualname__ != config.model:
        differences.append(f"the net was {config.model}, now {type(own).__qualname__}")
    changed = config.replace(**others)
    with distributed.first_of_machine():
        data = read_pictures_again(folder, record, data, config.imgsz, workers, labels, root)
    train_set, val_set = hold_out(data, changed)
    changed = changed.replace(batch_size=min(changed.batch_size, len(train_set)))
    check_ranks(changed)
    most_pixels = images.limit_after(record["max_pixels"])
    described = describe_data(data, train_set, val_set, record["skipped_bad"], most_pixels)
    now = json.loads(json.dumps(described))
    other_data = [
        f"{what} are not the same" for key, what in DATA.items() if now[key] != record.get(key)
    ]
    device, begun = choose_device(changed.device), bool(list_checkpoints(folder))
    with explained(lambda: advice(changed)):
        set_up(device, changed.threads, changed.seed, changed.deterministic)
        weights = None if begun else find_weights(changed, data.imgsz)
        if weights:
            changed = changed.replace(model=weights.model)
        net, normalization = prepare_net(own, changed, data, train_set, weights)
    pictures = len(train_set) + (len(val_set) if val_set else 0)
    most = most_bytes(net, pictures, len(data.classes), changed)
    checkpoint = newest_checkpoint(folder, most) if begun else None
    machine = describe_machine(changed, device)
    if checkpoint is None:
        machine["first_weights"] = weights.source if weights else "none"
    else:  # it has what the run began with, whatever was edited since
        was = checkpoint.config
        differences += [
            f"{flag(key)} was {was.get(key)}, {folder.name}/config.json says {value}"
            for key, value in asdict(config).items()
            if was.get(key) != value
        ]
    differences += other_data
    differences += [
        one for one in machine_differences(before, machine)
        if "threads" not in others or not one.startswith("threads ")
    ]  # fmt: skip
    if differences and not anyway:
        raise UsageError(
            f"{shown(folder)} would not go on exactly: {'; '.join(map(shown, differences))}. "
            "--resume-anyway goes on, and writes that down"
        )
    done = checkpoint.position.epoch + bool(checkpoint.position.batch) if checkpoint else 0
    if "epochs" in others and others["epochs"] < done:
        raise UsageError(
            f"{shown(folder)} is in its epoch {done} already: --epochs {others['epochs']} is less"
        )
    if checkpoint and other_data:  # what was best was best on other pictures
        judged = [replace(one, val_confusion=None) for one in checkpoint.results]
        checkpoint = replace(checkpoint, best=None, floor=None, results=judged)
    # Where the clock decides how many steps there are, no second run is like the first.
    repeatable = changed.time is None and (device.type == "cpu" or changed.deterministic)
    exact = repeatable and not differences
    step = checkpoint.position.step if checkpoint else 0
    resumed = {"step": step, "exact": exact, "differences": differences}
    env = machine | {key: before[key] for key in BEGUN if key in before}
    env["settings"] = said | others
    env["resumed"] = [*before.get("resumed", []), resumed]
    plan = Plan.read(folder) if (folder / PLAN).exists() else None
    return Job(
        changed, data, train_set, val_set, record["skipped_bad"], net,
        checkpoint.normalization if checkpoint else normalization, env,
        TrainedOn.learn(train_set), plan, checkpoint, resumed=True,
        was_finished=bool(before.get("finished")), max_pixels=most_pixels,
    )  # fmt: skip


def machine_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is no longer the same in ``env.json``, in words."""
    packages = before.get("packages")
    was = before | (packages if isinstance(packages, dict) else {})
    now = now | now["packages"]
    names = [*now["packages"], *MACHINE, *(["first_weights"] if "first_weights" in now else [])]
    return [
        f"{name.replace('_', ' ')} was {was.get(name)}, now {now[name]}"
        for name in names
        if was.get(name, UNSAID.get(name)) != now[name]
    ]


def describe_machine(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """What ``env.json`` holds."""
    on_cpu = config.precision == "bf16" and device.type == "cpu"
    kernels = compiled.library() is not None if on_cpu else None
    return describe(device) | {
        "compiled_kernels": kernels,
        "minimal_filtering": on_cpu and winograd_pays(),
        "ranks": distributed.size(),
        "launch": distributed.launch(),
    }


def check_ranks(config: TrainConfig) -> None:
    """See that each rank gets something of each batch.

    Raises:
        UsageError: there are more ranks than pictures in a batch.
    """
    if distributed.size() > config.batch_size:
        raise UsageError(
            f"batches of {config.batch_size} pictures are too few for {distributed.size()} ranks"
        )
