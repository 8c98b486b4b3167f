"""A model as a program of torch.export, and as the content of files: ONNX and pt2."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from eyebright.classifier import Classifier
from eyebright.console import shown
from eyebright.errors import UsageError
from eyebright.exported_card import CARD, NO_SUM, PICTURE, PIXELS, SUM, ExportedCard, seal
from eyebright.in_graph import Whole
from eyebright.runtime import older_flags

OPSET = 18


def trace(classifier: Classifier, resize: bool) -> Any:
    """The model as a program of torch.export, on the processor.

    Raises:
        UsageError: the net decides in Python what it does, so that no graph says it all.
    """
    card = classifier.card
    net = copy.deepcopy(classifier.model).cpu().eval()
    size = card.imgsz if resize else None
    whole = Whole(net, card.normalization, card.temperature or 1.0, card.tta, size).eval()
    dim = torch.export.Dim
    # Two and more, and no two alike, lest a size be taken for a constant.
    if resize:
        example = torch.zeros(card.imgsz + 5, card.imgsz + 18, 3, dtype=torch.uint8)
        sizes = {0: dim("height", min=1), 1: dim("width", min=1)}
    else:
        example = torch.zeros(2, card.imgsz, card.imgsz, 3, dtype=torch.uint8)
        sizes = {0: dim("n", min=1)}
    try:
        with torch.no_grad(), older_flags(), quietly():
            program = torch.export.export(whole, (example,), dynamic_shapes=(sizes,))
    except Exception as error:  # torch has no one class for it
        reason = shown(" ".join(str(error).split()))[:300]
        raise UsageError(f"the net {shown(card.architecture)} has no graph ({reason})") from None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def to_onnx(program: Any, card: ExportedCard) -> bytes:
    """The content of an ONNX file."""
    names = ["image" if card.input == PICTURE else "images"], ["probabilities"]
    with older_flags(), quietly():
        done = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=names[0],
            output_names=names[1],
        )
    assert done is not None, "dynamo gives a program"
    return sealed(done.model_proto, card)


def sealed(model: Any, card: ExportedCard) -> bytes:
    """A model of the package onnx with our metadata, and nothing that tells of this machine.

    Raises:
        UsageError: it is larger than one file may be (2 GiB).
    """
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for part in (*model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    free = ["height", "width"] if card.input == PICTURE else ["n"]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    for size, name in zip(sizes, free, strict=False):
        size.dim_param = name
    if card.input == PIXELS:
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    del model.graph.value_info[:]  # shapes between, by other names
    model.producer_name = "eyebright"
    for key, value in ((CARD, card.to_json()), (SUM, NO_SUM)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    try:
        return seal(model.SerializeToString())
    except Exception as error:  # protobuf's own, above 2 GiB
        raise UsageError(f"the net is too large for one ONNX file ({shown(error)[:200]})") from None


def to_pt2(program: Any, card: ExportedCard) -> bytes:
    """The content of a file of torch.export."""
    buffer = io.BytesIO()
    with quietly():
        torch.export.save(program, buffer, extra_files={CARD: card.to_json()})
    return buffer.getvalue()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what torch and its exporters say to their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
