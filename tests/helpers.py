"""Experiments small enough for tests, rollouts of them, a console without output, and fingerprints of states."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs import TaskSuite, make_suite
from mtrl.config import ExperimentConfig, override
from mtrl.learning.learner import Learner
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.rollout import Rollout
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.trainer import Trainer

# Where a gradient is nothing but rounding, Adam makes a whole step of it. An epsilon above the rounding keeps that out of a comparison.
STEADY = {"learner__actor__epsilon": 1e-4, "learner__critic__epsilon": 1e-4}


class Silent:
    """A console that prints nothing and keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: RunDirectory) -> None:
        """Prints nothing."""

    def update(self, metrics: dict[str, float]) -> None:
        """Prints nothing."""

    def message(self, text: str) -> None:
        """Keeps the message."""
        self.messages.append(text)

    def close(self) -> None:
        """Has nothing to close."""


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


def collect(config: ExperimentConfig, unrolls: int = 1, version: int = 0) -> list[Rollout]:
    """Rollouts of the experiment's initial policy, marked with the learner's `version`."""
    suite = make_suite(config.suite.name)
    collector = build_collector(config, suite, runner=0)
    collector.set_weights(version, Learner(config, suite).actor_weights())
    rollouts = [collector.collect().rollout for _ in range(unrolls)]
    collector.close()
    return rollouts


def steps_until(trainer: Trainer, condition: Callable[[list[str]], bool], seconds: float = 90.0) -> list[str]:
    """Trains until the condition on the messages so far holds, and returns the messages."""
    said: list[str] = []
    end = time.monotonic() + seconds
    while not condition(said):
        assert time.monotonic() < end, f"not within {seconds} s; said: {said}"
        trainer.step(0.2)
        said += trainer.messages()
    return said


def assert_equal_states(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Compares the policies of two learners' states up to rounding."""
    for name, tensor in one["policy"].items():
        torch.testing.assert_close(other["policy"][name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


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


def processes_with(mark: str) -> set[str]:
    """The command lines of living processes that have inherited this word in their environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.add((entry / "cmdline").read_text())
    return found
