"""Whether a written file gives what the policy gives, and how long it takes."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from envs import TaskSuite
from mtrl.errors import UserError
from mtrl.evaluation.export.examples import arguments, make_example, of_policy
from mtrl.evaluation.export.formats import Policy
from mtrl.evaluation.export.portable import PortableActor
from mtrl.models.distributions import FORBIDDEN
from mtrl.models.policy import Actor

LIMIT = 1e-5  # of a difference
BATCHES = (1, 7)  # rows
SPEED_SECONDS = 0.5


@torch.inference_mode()
def largest_difference(file: Policy, portable: PortableActor, suite: TaskSuite, actor: Actor, task: int | None) -> float:
    """The largest difference between a file's outputs and the policy's own for random inputs, in units of the largest output or of 1.

    Forbidden actions, of which the numbers are far larger than those of the others, do not count for the largest output.
    """
    largest = 0.0
    for rows in BATCHES:
        example = make_example(suite, actor, task, rows, seed=rows)
        for ours, own in zip(file(*arguments(portable, example)), of_policy(actor, portable, example), strict=True):
            largest = max(largest, float((ours - own).abs().max()) / max(1.0, float(own.masked_fill(own == FORBIDDEN, 0).abs().max())))
    return largest


def checked(name: str, difference: float) -> float:
    """The difference of the file `name` from the policy.

    Raises:
        UserError: it is above `LIMIT`, or not a number.
    """
    if not difference <= LIMIT:
        raise UserError(f"the policy cannot be exported: {name} would differ from it by {difference:.1e}, which is more than {LIMIT:.0e}")
    return difference


@torch.inference_mode()
def microseconds(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Time per row, of the fastest of several rounds."""
    module(*inputs)
    best, end = float("inf"), time.perf_counter() + SPEED_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        module(*inputs)
        best = min(best, time.perf_counter() - start)
    return 1e6 * best / len(inputs[0])
