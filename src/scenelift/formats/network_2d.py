"""The 2D network with its classes as ONNX: one file that runs without this library, and without PyTorch."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scenelift.classes import ClassTable
from scenelift.files import atomic_write

if TYPE_CHECKING:
    from scenelift.predict import NetworkPair

FILE = "network_2d.onnx"
OPSET = 18
"""Of 2022; ONNX Runtime has had it since 1.14."""
_SAMPLE = (2, 3, 64, 96)
"""Shape of the image the network is traced with; none of its numbers is left in the file."""


class ImageClassifier(nn.Module):
    """Images to class probabilities, as `NetworkPair.image_probabilities` gives them.

    Args:
        pair: trained networks, shared with it.
    """

    text: Tensor

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        self.network, self.head = pair.networks.image, pair.networks.image_head
        self.register_buffer("text", pair.text)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1] to (B, C, H, W) float32."""
        coarse = self.head.forward_map(self.network(image), self.text)
        full = F.interpolate(coarse, size=image.shape[2:], mode="bilinear", align_corners=False)
        return full.softmax(1)


def write_onnx(pair: NetworkPair, classes: ClassTable, out: Path) -> Path:
    """Write ``network_2d.onnx``.

    Input ``image`` (batch, 3, height, width) float32 RGB in [0, 1], each size free; output ``probabilities``
    (batch, C, height, width) float32. Normalisation and the text embeddings of the classes are part of it.
    Metadata: ``classes`` and ``colors`` as JSON lists, ``digest`` of what the networks were trained from.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written.
    """
    model = deepcopy(ImageClassifier(pair)).cpu().eval()
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with _quiet():
        program = torch.onnx.export(
            model,
            (torch.rand(_SAMPLE),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None  # with dynamo there is always one
    proto = program.model_proto
    _tidy(proto.graph)
    about = {
        "classes": json.dumps(classes.names, ensure_ascii=False),
        "colors": json.dumps(classes.colors.tolist()),
        "digest": pair.digest,
        "input": "RGB in [0, 1]",
    }
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    proto.producer_name = "scenelift"
    file = out / FILE
    atomic_write(file, proto.SerializeToString())
    return file


def _tidy(graph: Any) -> None:
    """Name the free sizes; leave out what the exporter notes of its work, paths of this machine included."""
    for value in (*graph.input, *graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del graph.value_info[:]
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own parts and logs every step; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
