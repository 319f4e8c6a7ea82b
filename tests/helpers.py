"""Experiments small enough for tests, and fingerprints of states."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from mtrl.config import ExperimentConfig, override


def toy_config(suite: str = "toy/three", **changes: Any) -> ExperimentConfig:
    """A run in this process; `changes` are dotted fields with `__` for the dot."""
    base = {
        "suite.name": suite,
        "env_runners.num_env_runners": 0,
        "env_runners.slots": 6,
        "env_runners.unroll_length": 8,
        "model.head_width": 16,
        "learner.precision": "float32",  # also where the machine would take bfloat16: tests compare numbers
        "total_frames": 5000,
    }
    return override(ExperimentConfig(), base | {name.replace("__", "."): value for name, value in changes.items()})


def fingerprint(tree: Any) -> str:
    """A hash of a tree of tensors, arrays and plain values."""
    digest = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, dict):
            for key in node:
                digest.update(repr(key).encode())
                add(node[key])
        elif isinstance(node, list | tuple):
            digest.update(b"list")
            for item in node:
                add(item)
        elif isinstance(node, torch.Tensor | np.ndarray):
            array = node.detach().cpu().numpy() if isinstance(node, torch.Tensor) else node
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        else:
            digest.update(repr(node).encode())

    add(tree)
    return digest.hexdigest()
