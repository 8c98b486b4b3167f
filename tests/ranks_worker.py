"""One of several ranks: trains what its arguments say, and the first one writes down the losses."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eyebright import distributed
from eyebright.batches import Normalization
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.models import create_model
from eyebright.training import Position, fit

NORMALIZATION = Normalization((0.4, 0.5, 0.6), (0.3, 0.25, 0.2))


class OwnNet(nn.Module):
    """A user's own net, with torch's batch norms, one of them over what is only two values."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.last = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(self.last(x))  # type: ignore[no-any-return]


def pictures(n: int) -> Dataset:
    """Noise with a brightness of its own for each class, the classes of different size."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, n, p=[0.1, 0.2, 0.3, 0.4])
    noise = rng.integers(0, 128, (n, 16, 16, 3))
    return Dataset((noise + 30 * labels[:, None, None, None]).astype(np.uint8), labels, "abcd")


def losses_of(case: dict[str, Any]) -> dict[str, Any]:
    """The loss of each step, what is said of pictures held out, and all weights, summed."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    case = {"label_smoothing": 0.1, **case}
    n, name = case.pop("n", 640), case.pop("model")
    net = OwnNet(4) if name == "own" else create_model(name, 4, 16)
    config = TrainConfig(model=name, epochs=100, precision=case.pop("precision", "fp32"), **case)
    data, held_out = pictures(n + 33), None
    data, held_out = data.subset(range(n)), data.subset(range(n, n + 33))
    losses: list[float] = []
    config = config.replace(log_every=1)
    for result in fit(net, data, held_out, config, NORMALIZATION, None):
        losses += [loss for _, loss in result.running_losses]
    assert result.val_confusion is not None
    assert result.val_logits is not None
    return {
        "losses": losses,
        "counts": result.val_confusion.tolist(),
        "logits": result.val_logits.tolist(),
        "weights": [float(w.double().sum()) for w in net.state_dict().values()],
    }


class Drawing(nn.Module):
    """Writes down what its random numbers are at each step, as dropout would draw them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.drawn = nn.Linear(3, 4), list[float]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.drawn.append(float(torch.rand(())))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def drawn_from(step: int) -> list[float]:
    """The random numbers of the steps from this one to the 20th."""
    net, data = Drawing(), pictures(96)
    config = TrainConfig(batch_size=4, epochs=1, max_steps=20, precision="fp32", optimizer="sgd")
    at = Position(step=step, batch=step)
    for _ in fit(net, data, None, config, NORMALIZATION, None, position=at):
        pass
    return net.drawn


def main() -> None:
    """Train each case in turn."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    distributed.join()
    found = [losses_of(case) for case in cases]
    everybody = distributed.said_by_all([one["weights"] for one in found])
    one, other = distributed.said_by_all(drawn_from(0))
    assert len(one) == len(other) == 20
    assert not set(one) & set(other), "ranks draw the same random numbers"
    assert drawn_from(7) == distributed.said_by_all(drawn_from(0))[distributed.rank()][7:]
    if distributed.is_first():
        assert all(one == everybody[0] for one in everybody), "ranks have different weights"
        Path(sys.argv[2]).write_text(json.dumps(found))
    distributed.wait()
    distributed.leave()


if __name__ == "__main__":
    main()
