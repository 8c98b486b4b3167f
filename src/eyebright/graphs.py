"""A training step that is recorded once on a GPU and then replayed.

A step of a small net is several hundred kernels of a few microseconds each; launching them one by
one from Python takes longer than they run. Recorded as a CUDA graph they are launched together.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eyebright.console import notices
from eyebright.runtime import is_out_of_memory

Step = Callable[[Tensor, Tensor], Tensor]
"""Takes pictures and labels; gives the loss, as a tensor without gradient."""

WARM_UP = 1  # steps that are taken as they are first: libraries set themselves up in them


class Replayed:
    """A step that is replayed from its second call on, with the same results.

    Batches of another size, as the last one of an epoch may be, are taken as they are; and so are
    all where the step cannot be recorded, because it waits for the GPU within itself.

    Args:
        step: all that it reads and changes besides its arguments lies on the GPU.
        batch_size: of the steps that are recorded.
    """

    def __init__(self, step: Step, batch_size: int):
        self.take_step, self.batch_size = step, batch_size
        self.taken = 0
        self.can_be_recorded = True
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Take the step; gives its loss."""
        if len(pictures) != self.batch_size or not self.can_be_recorded:
            return self.take_step(pictures, labels)
        if self.taken < WARM_UP:
            self.taken += 1
            # Not on the stream that everything else is on, as recording demands it.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self.take_step(pictures, labels)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if self.graph is None and not self._record(pictures, labels):
            return self.take_step(pictures, labels)
        assert self.graph is not None
        self.pictures.copy_(pictures)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss.clone()  # the next step puts its own in the same place

    def _record(self, pictures: Tensor, labels: Tensor) -> bool:
        """Record the step, which does not take it; whether that was possible."""
        self.pictures, self.labels = torch.empty_like(pictures), torch.empty_like(labels)
        graph = torch.cuda.CUDAGraph()
        # Not by torch.cuda.graph, which gives all free memory back before it begins.
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self.loss = self.take_step(self.pictures, self.labels)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            notices.warning("training steps cannot be recorded, so they are slower: %s", error)
            self.can_be_recorded = False
            return False
        self.graph = graph
        return True


def is_known(model: torch.nn.Module) -> bool:
    """Whether a net may be recorded: a user's own might decide in Python what it does at a step."""
    return type(model).__module__.split(".")[0] in ("eyebright", "timm")
