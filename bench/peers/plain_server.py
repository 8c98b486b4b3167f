"""A model behind a plain FastAPI handler, as a tutorial has it: one request, one picture, no more.

python -m bench.peers.plain_server RUN PORT [THREADS]
"""

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request

from eyebright.classifier import Classifier


def main() -> None:
    """Serve until it is killed."""
    run, port, *threads = sys.argv[1:]
    classifier = Classifier.load(run)
    if threads:
        torch.set_num_threads(int(threads[0]))
    app = FastAPI()

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        prediction = classifier.predict([await request.body()])[0]
        return {"prediction": prediction.label, "probabilities": prediction.probabilities}

    uvicorn.run(app, port=int(port), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
