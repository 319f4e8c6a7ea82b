"""The rows that a network evaluates: sorted by task, and each distinct one once.

A memoryless network gives the same output for the same observation of the same task. In grid worlds seven of eight observations of a
rollout have been there before, so evaluating each distinct one once, and letting the gradient of all its visits flow into it, gives the
same numbers for a fraction of the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from envs.vector import Arrays
from mtrl.models.memory import Recurrence

ROW_MULTIPLE = 64
FEW_ROWS, FEW_MULTIPLE = 512, 16  # minibatches of 100 rows would grow by a fifth with the multiple above


class Rows(NamedTuple):
    """Inputs of a network, sorted by task."""

    obs: dict[str, Tensor]  # name -> [N, ...]
    task_ids: Tensor  # [N] int64, ascending
    counts: tuple[int, ...]  # rows of each task


class IndexedObservations(NamedTuple):
    """Observations of B slots over time, as places among rows. T1 is T + 1 where the last one is bootstrapped from."""

    rows: Rows
    inverse: Int[Tensor, "T1 B"]  # the row of each observation
    task_ids: Int[Tensor, " B"]  # of each slot; ascending where there is a memory
    recurrence: Recurrence | None  # the memory's other inputs


def single_steps(rows: Rows) -> IndexedObservations:
    """Every row as one step of a slot of its own, [1, N]; for networks without a memory."""
    return IndexedObservations(rows, torch.arange(len(rows.task_ids), device=rows.task_ids.device).unsqueeze(0), rows.task_ids, None)


def make_rows(obs: Arrays, task_ids: np.ndarray, num_tasks: int, device: torch.device) -> Rows:
    """Tensors on `device` of observations `[N, ...]` whose `task_ids` [N] ascend. Transfers from pinned memory when the device is a GPU."""
    return Rows(
        obs={name: _to_device(array, device) for name, array in obs.items()},
        task_ids=_to_device(task_ids.astype(np.int64, copy=False), device),
        counts=tuple(np.bincount(task_ids, minlength=num_tasks).tolist()),
    )


def padded(rows: Rows) -> Rows:
    """The rows with the last one repeated up to a multiple of `ROW_MULTIPLE`, or below `FEW_ROWS` of `FEW_MULTIPLE`; nothing points to the
    repetitions.

    Batches differ in their number of rows. Without padding hardly two buffers would have the same size, and the gaps that freed ones
    leave in memory would not fit the next.
    """
    count = len(rows.task_ids)
    missing = -count % (ROW_MULTIPLE if count >= FEW_ROWS else FEW_MULTIPLE)
    if not missing or not count:
        return rows
    index = torch.arange(count + missing, device=rows.task_ids.device).clamp(max=count - 1)
    last = max(task for task, n in enumerate(rows.counts) if n)
    counts = tuple(n + missing * (task == last) for task, n in enumerate(rows.counts))
    return Rows({name: rows_at(array, index) for name, array in rows.obs.items()}, rows.task_ids[index], counts)


def arrange(obs: Arrays, task_ids: np.ndarray, *, share_repeats: bool) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Lays out observations `[T, B, ...]` of slots with ascending `task_ids` [B] as rows sorted by task.

    Returns:
        the rows' observations `[N, ...]`, their task ids `[N]`, and `inverse` `[T, B]`: the row that holds each observation. With
        `share_repeats` N counts the distinct pairs of task and observation; otherwise it is T·B.
    """
    steps, slots = next(iter(obs.values())).shape[:2]
    by_slot = {name: np.ascontiguousarray(array.swapaxes(0, 1)).reshape(steps * slots, *array.shape[2:]) for name, array in obs.items()}
    row_tasks = np.repeat(task_ids, steps)
    if not (share_repeats and can_share(obs)):
        return by_slot, row_tasks, np.arange(steps * slots).reshape(slots, steps).T
    first, inverse = first_occurrences(row_keys(by_slot), row_tasks)
    return {name: rows[first] for name, rows in by_slot.items()}, row_tasks[first], inverse.reshape(slots, steps).T


def rows_of_all(obs: dict[str, Tensor], task_ids: Int[Tensor, " B"], counts: Sequence[int]) -> tuple[Rows, Int[Tensor, "T B"]]:
    """What `arrange` does without shared repeats, on the tensors' device.

    Args:
        obs: `[T, B, ...]`.
        task_ids: of the slots, ascending.
        counts: slots of each task.

    Returns:
        the rows, and the row of each observation.
    """
    steps, slots = next(iter(obs.values())).shape[:2]
    by_slot = {name: array.transpose(0, 1).flatten(0, 1) for name, array in obs.items()}
    rows = Rows(by_slot, task_ids.repeat_interleave(steps), tuple(steps * count for count in counts))
    return rows, torch.arange(steps * slots, device=task_ids.device).view(slots, steps).T


def rows_at(array: Shaped[Tensor, "N ..."], places: Int[Tensor, "*S"]) -> Shaped[Tensor, ...]:
    """The rows of an array at places of any shape: `array[places]`.

    On a CPU `index_select` and its gradient take a tenth to a half of the time of indexing. On a GPU its gradient would add up in an order
    that differs from run to run.
    """
    if array.device.type == "cuda":
        return array[places]
    return array.index_select(0, places.flatten()).reshape(*places.shape, *array.shape[1:])


def can_share(obs: Arrays) -> bool:
    """Whether repeats are worth looking for: observations of real numbers hardly ever repeat."""
    return all(array.dtype.kind in "uib" for array in obs.values())


def row_keys(obs: Arrays) -> list[bytes]:
    """The bytes of each row of `[N, ...]` arrays: equal exactly where the observations are."""
    keys = [_bytes_per_row(obs[name]) for name in sorted(obs)]
    return [b"".join(parts) for parts in zip(*keys, strict=True)] if len(keys) > 1 else keys[0]


def first_occurrences(keys: list[bytes], task_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of each distinct (task, key) where it first occurs, in that order, and for every row the position of its pair there."""
    first: list[int] = []
    inverse = np.empty(len(keys), np.int64)
    starts = np.flatnonzero(np.diff(task_ids, prepend=-1, append=-1)).tolist()
    for start, stop in itertools.pairwise(starts):
        seen: dict[bytes, int] = {}
        base = len(first)
        positions = [seen.setdefault(key, len(seen)) for key in keys[start:stop]]
        inverse[start:stop] = positions
        inverse[start:stop] += base
        first.extend((np.unique(positions, return_index=True)[1] + start).tolist())
    return np.array(first, np.int64), inverse


def _bytes_per_row(array: np.ndarray) -> list[bytes]:
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    rows: list[bytes] = flat.view(np.dtype((np.void, flat.shape[1] * flat.itemsize))).ravel().tolist()  # type: ignore[assignment]
    return rows


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    # Arrays out of Ray's object store are read-only, which torch warns about although nobody writes to these.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
