"""`Serving`: a model that is served, as far as the routes are concerned."""

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eyebright.answers import prediction_of
from eyebright.errors import DataError
from eyebright.serve.batching import Batcher
from eyebright.serve.guard import RefusedError, too_busy
from eyebright.serve.net import Loaded, Net, Row
from eyebright.serve.net import predict as predict_pictures
from eyebright.serve.numbers import Numbers


@dataclass
class Serving:
    """All that the routes need."""

    net: Net
    model: Loaded
    about: dict[str, Any]
    """What ``GET /model`` says."""
    timeout: float
    """Seconds in which a request is answered, once it is all there."""
    numbers: Numbers = field(default_factory=Numbers)
    leaving: bool = False

    def __post_init__(self) -> None:
        self.classes = self.about["classes"]
        predict = partial(self.net.run, predict_pictures)
        self.batcher = Batcher(predict, self.model.imgsz, self.model.seconds)
        load = self.batcher.load
        waiting, seconds = "Pictures that wait for the net.", "What a picture takes, of late."
        self.numbers.watch("eyebright_waiting_pictures", waiting, lambda: load.waiting)
        self.numbers.watch("eyebright_picture_seconds", seconds, lambda: load.net + load.decoding)

    @property
    def is_ready(self) -> bool:
        """Whether it takes pictures."""
        return self.net.is_there and not self.leaving

    def leave(self) -> None:
        """From now on nothing new is taken."""
        self.leaving = True

    def refuse(self, path: str) -> RefusedError | None:
        """What can be refused before anything is done for it."""
        if path not in ("/predict", "/explain"):
            return None
        refused = None
        if self.leaving:
            refused = RefusedError(503, "this server is leaving", retry_after="5")
        elif not self.net.is_there:
            refused = RefusedError(503, "the net is being loaded", retry_after="5")
        elif self.batcher.load.is_full:
            refused = too_busy(self.batcher.load.seconds_to_wait)
        if refused:
            self.numbers.count(path, refused.status)
        return refused

    def said_of(self, row: Row, top: int | None) -> dict[str, Any]:
        """What is said of a picture, in the words of ``eyebright predict --json``."""
        if isinstance(row, DataError):
            return {"error": str(row)}
        prediction = prediction_of(self.classes, row)
        return {
            "prediction": prediction.label,
            "probability": prediction.probability,
            "probabilities": dict(prediction.top(top)) if top else prediction.probabilities,
            "calibrated": self.about["calibrated"],
            **prediction.answers(self.model.promises),
        }

    def say(self, names: list[str | None], rows: list[Row], top: int | None) -> str:
        """What is said of all pictures of a request, as JSON."""
        pairs = zip(names, rows, strict=True)
        said = [{"picture": name} | self.said_of(row, top) for name, row in pairs]
        return json.dumps({"predictions": said})
