"""The files that a portable actor is written to: `policy.pt2` for torch, `policy.onnx` for everything that reads ONNX."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mtrl.evaluation.export.portable import PortableActor

Format = Literal["pt2", "onnx", "both"]
Policy = Callable[..., tuple[Tensor, ...]]  # a file as a function

PT2, ONNX = "policy.pt2", "policy.onnx"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONNX_HINT = "pip install -e '.[onnx]'"


def has_onnx() -> bool:
    """Whether the packages of the extra `onnx` are installed."""
    return all(importlib.util.find_spec(name) for name in ONNX_PACKAGES)


def files_of(chosen: Format | None) -> tuple[str, ...]:
    """The files of a format, by default both where ONNX can be written."""
    return {"pt2": (PT2,), "onnx": (ONNX,), "both": (PT2, ONNX)}[chosen or ("both" if has_onnx() else "pt2")]


def trace(portable: PortableActor, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The operations of a portable actor, for any number of rows.

    Args:
        portable: the actor.
        inputs: an example of at least two rows.
    """
    any_rows = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad(), _quiet():
        return torch.export.export(portable, inputs, dynamic_shapes=(tuple(any_rows for _ in inputs),))


def write(program: torch.export.ExportedProgram, portable: PortableActor, path: Path) -> None:
    """Writes the file `path`, whose name is one of the two."""
    with _quiet():
        if path.name == PT2:
            torch.export.save(program, path)
            return
        found: Any = torch.onnx.export(program, dynamo=True, input_names=portable.inputs, output_names=portable.outputs, verbose=False)
        found.save(path, external_data=False)


def read(path: Path) -> Policy:
    """The function in a file."""
    if path.name == PT2:
        module = torch.export.load(path).module()
        return lambda *inputs: _as_tuple(module(*inputs))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
        return tuple(torch.from_numpy(array) for array in session.run(None, given))

    return run


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about itself: packages that it could use, names that it will rename."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
