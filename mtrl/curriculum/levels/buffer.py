"""The rated levels of one task."""

from __future__ import annotations

from typing import Any

import numpy as np


class LevelBuffer:
    """Levels with their scores. A full buffer takes a new level in place of the one with the lowest score, if the new one has more.

    Args:
        capacity: the most levels.
        num_parameters: numbers of each level besides its seed (P).
    """

    def __init__(self, capacity: int, num_parameters: int):
        self._capacity = capacity
        self._row_of: dict[int, int] = {}
        self._size = 0
        self._rows = {name: np.zeros((0, num_parameters) if name == "parameters" else 0, kind) for name, kind in _COLUMNS.items()}

    def __len__(self) -> int:
        return self._size

    def __contains__(self, number: int) -> bool:
        return number in self._row_of

    @property
    def numbers(self) -> np.ndarray:
        """[L] int64"""
        return self._rows["numbers"][: self._size]

    @property
    def parameters(self) -> np.ndarray:
        """[L, P]"""
        return self._rows["parameters"][: self._size]

    @property
    def scores(self) -> np.ndarray:
        """[L], by each level's newest episode."""
        return self._rows["scores"][: self._size]

    @property
    def last_played(self) -> np.ndarray:
        """[L], the clock when the newest episode ended."""
        return self._rows["last_played"][: self._size]

    def best_return(self, number: int) -> float:
        """The highest return of a level so far; -inf for a level that is not here."""
        row = self._row_of.get(number)
        return -np.inf if row is None else float(self._rows["best_returns"][row])

    def scores_of(self, numbers: np.ndarray) -> np.ndarray:
        """The scores of some levels, [N]; NaN for those that are not here."""
        rows = [self._row_of.get(number, -1) for number in numbers.tolist()]
        return np.append(self.scores, np.nan)[rows]

    def parameters_of(self, number: int) -> np.ndarray:
        """The parameters of a level that is here, [P]."""
        return self._rows["parameters"][self._row_of[number]].copy()

    def update(self, number: int, score: float, best_return: float, clock: int) -> None:
        """Gives a level that is here a new score."""
        row = self._row_of[number]
        self._rows["scores"][row], self._rows["best_returns"][row], self._rows["last_played"][row] = score, best_return, clock

    def offer(self, number: int, parameters: np.ndarray, score: float, best_return: float, clock: int) -> None:
        """Takes in a level that is not here, unless the buffer is full of levels with higher scores."""
        if self._size < self._capacity:
            row = self._size
            if row == len(self._rows["numbers"]):
                self._grow()
            self._size += 1
        else:
            row = int(np.argmin(self.scores))
            if score <= self.scores[row]:
                return
            del self._row_of[int(self._rows["numbers"][row])]
        self._rows["numbers"][row], self._rows["parameters"][row] = number, parameters
        self._row_of[number] = row
        self.update(number, score, best_return, clock)

    def state_dict(self) -> dict[str, Any]:
        """All levels with their figures."""
        return {name: array[: self._size].copy() for name, array in self._rows.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`. Of more levels than there is room for, those with the highest scores stay."""
        kept = np.sort(np.argsort(-np.asarray(state["scores"]), kind="stable")[: self._capacity])
        self._rows = {name: np.array(state[name], kind)[kept] for name, kind in _COLUMNS.items()}
        self._size = len(kept)
        self._row_of = {number: row for row, number in enumerate(self.numbers.tolist())}

    def _grow(self) -> None:
        more = min(self._capacity, max(64, 2 * self._size)) - self._size
        self._rows = {name: np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)]) for name, array in self._rows.items()}


_COLUMNS = {"numbers": np.int64, "parameters": np.float64, "scores": np.float64, "best_returns": np.float64, "last_played": np.int64}
