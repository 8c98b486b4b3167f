"""Kill a training again and again, at random, and see that it ends as if nothing had happened.

    python -m bench.soak --kills 500

Trains a small net on handwritten digits once undisturbed, then once more in processes that are
killed (``kill -9``) before a random step, or before a random call that changes the disk while they
save. Each is gone on with by ``train --resume``; when a run has survived its share of kills it is
let go to its end, and compared bit by bit: weights, optimizers, generators, model, log without its
seconds. A row goes into ``results/soak.csv``.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from bench.rows import append_row
from eyebright import saver, training
from eyebright.cli import run_app
from eyebright.resume import Checkpoint
from eyebright.saver import newest_checkpoint
from eyebright.training import EpochResult

TRAIN = "train digits --recipe fast --model white16 --epochs 12 -b 100 --threads 1".split()
KILLS_A_RUN = 20
STEPS, CALLS = 12, 90  # a process is killed within so many of them


def victim(where: str, count: int, command: list[str]) -> int:
    """Run a command with a checkpoint after every step, and die at the moment that is named.

    Args:
        where: ``step``, or ``save`` for calls that change the disk while a checkpoint is saved.
        count: of them, the last of which is not lived to see.
        command: of eyebright.
    """
    saver.LEAST, saver.SHARE, training.REFRESH = 0.0, 1e9, -1.0
    left, saving = [count], [where == "step"]

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            left[0] -= saving[0]
            if saving[0] and not left[0]:
                if name == "write":  # half of it
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(module, name, counted)

    save_checkpoint = saver.save_checkpoint

    def save(run: Path, checkpoint: Checkpoint) -> Path:
        saving[0] = True
        path = save_checkpoint(run, checkpoint)
        saving[0] = where == "step"
        return path

    saver.save_checkpoint = save
    if where == "step":
        watch(training, "set_lr")
    else:
        for name in ("mkdir", "open", "write", "fsync", "replace", "unlink"):
            watch(os, name)
    return run_app(command)


def state_of(run: Path) -> dict[str, Any]:
    """All that must be the same, however often a run was interrupted."""
    state = newest_checkpoint(run)
    assert state is not None, "a run that has ended has one"
    rows = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    files = ("model.safetensors", "model.json", "predictions-val.csv", "config.json", "data.json")
    return {
        "position": replace(state.position, seconds=0.0),
        "generators": state.generators,
        "judged": [_digest(one) for one in (state.best, state.floor, *state.results[-1:])],
        "state": {k: sha256(w.numpy().tobytes()).hexdigest() for k, w in state.tensors.items()},
        "losses": [(r.epoch, r.step, r.train_loss, r.running_losses) for r in state.results],
        "log": [row[:2] + row[3:] for row in rows],  # all but seconds
        "files": {f: (run / f).read_bytes() for f in files if (run / f).exists()},
    }


def _digest(result: EpochResult | None) -> list[str]:
    """All that a result holds but its seconds."""
    if result is None:
        return []
    held = [result.val_confusion, result.val_logits, *(result.spare or ())]
    arrays = [np.asarray(one).tobytes() for one in held if one is not None]
    return [str(result.epoch), str(result.train_loss), *(sha256(a).hexdigest() for a in arrays)]


def run_to_death(rng: random.Random, command: list[str], folder: Path) -> bool:
    """One process; whether it was killed before its end."""
    where = rng.choice(("step", "save"))
    count = rng.randint(1, STEPS if where == "step" else CALLS)
    arguments = ["--victim", where, str(count), *command]
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", *arguments],
        stdout=subprocess.DEVNULL,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
        cwd=folder,
    )
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}")
    return done.returncode != 0


def soak(kills: int, seed: int) -> dict[str, Any]:
    """So many kills; what came of them."""
    rng, killed, runs, mismatches = random.Random(seed), 0, 0, 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run(
            [sys.executable, "-m", "eyebright", *TRAIN, "--name", "whole"],
            check=True, stdout=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        whole = state_of(folder / "runs" / "whole")
        while killed < kills:
            runs += 1
            run = folder / "runs" / f"broken{runs}"
            survived = 0
            while survived < min(KILLS_A_RUN, kills - killed):
                begun = (run / "data.json").exists()
                again = ["train", "--resume", str(run)]
                command = again if begun else [*TRAIN, "--name", run.name]
                if not run_to_death(rng, command, folder):
                    break
                survived += 1
                if not (run / "data.json").exists():  # so young that nothing can be gone on with
                    shutil.rmtree(run, ignore_errors=True)
            killed += survived
            subprocess.run(
                [sys.executable, "-m", "eyebright", "train", "--resume", str(run)],
                check=True, stdout=subprocess.DEVNULL, cwd=folder,
            )  # fmt: skip
            same = state_of(run) == whole
            mismatches += not same
            print(
                f"{killed} kills, run {runs}: {'the same' if same else 'NOT THE SAME'}", flush=True
            )
    return {
        "kills": killed,
        "runs": runs,
        "mismatches": mismatches,
        "seed": seed,
        "seconds": round(time.perf_counter() - start),
    }


def main() -> None:
    """Soak, and write the row."""
    if sys.argv[1:2] == ["--victim"]:
        where, count, *command = sys.argv[2:]
        sys.exit(victim(where, int(count), command))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    append_row("soak", soak(arguments.kills, arguments.seed))


if __name__ == "__main__":
    main()
