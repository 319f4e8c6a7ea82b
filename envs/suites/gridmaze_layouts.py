"""Layouts of square mazes: as numbers that a curriculum draws and edits, and the mazes that policies are tested on.

The cells of a maze of S x S are numbered by rows from 1 to S²; 0 is no cell. A layout is the cells [goal, agent, block, block, …]. The
blocks are in ascending order, and zeros stand where there are fewer than the most.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np

from envs.levels import EditSettings

MOVED = 0.1  # chance that a change of an edit moves the goal, and likewise the agent; the others set or remove a block
CHUNK = 4096  # levels that are drawn at once


@dataclass(frozen=True)
class LayoutSpace:
    """The `LevelSpace` of mazes with blocks anywhere, also such with a goal that cannot be reached."""

    size: int
    """Cells on a side (S)."""
    blocks: int
    """The most blocks."""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each number of a layout."""
        return ("goal", "agent", *(f"block {number}" for number in range(1, self.blocks + 1)))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random number of blocks, the goal and the agent in cells of their own, [P]."""
        return self._of_keys(rng.random((1, self.size**2 + 1)))[0]

    def of_training_levels(self, count: int) -> np.ndarray:
        """The layouts 0 to `count` - 1, [count, P]."""
        rng = np.random.default_rng(0)
        chunks = [self._of_keys(rng.random((CHUNK, self.size**2 + 1))) for _ in range(-(-count // CHUNK))]
        return np.concatenate(chunks)[:count]

    def edited(self, parameters: np.ndarray, settings: EditSettings, rng: np.random.Generator) -> np.ndarray:
        """The layout with some cells written anew, one after the other: a block is set or removed, or the goal or the agent moves there.

        No block is set in a layout that has the most.
        """
        goal, agent, blocks = int(parameters[0]), int(parameters[1]), {int(cell) for cell in parameters[2:] if cell}
        for _ in range(settings.cells):
            cell, chance = int(rng.integers(self.size**2)) + 1, float(rng.random())
            if chance < MOVED and cell != agent:
                goal = cell
            elif MOVED <= chance < 2 * MOVED and cell != goal:
                agent = cell
            elif chance >= 2 * MOVED and cell not in (goal, agent) and (cell in blocks or len(blocks) < self.blocks):
                blocks ^= {cell}
            blocks -= {goal, agent}
        return self._ordered(goal, agent, np.array(sorted(blocks)))

    def sequences_of(self, parameters: np.ndarray) -> np.ndarray:
        """Of each cell its row, its column, and whether there is such a cell, [N, P, 3]."""
        there = parameters > 0
        cells = np.where(there, parameters - 1, (self.size**2 - 1) / 2)  # no cell is in the middle
        places = np.stack([cells // self.size, cells % self.size], axis=-1) / (self.size - 1) * 2.0 - 1.0
        return np.concatenate([places, np.where(there, 1.0, -1.0)[..., None]], axis=-1).astype(np.float32)

    def of_sequences(self, sequences: np.ndarray) -> np.ndarray:
        """The layouts of the nearest cells, [N, P]. An agent in the goal's cell is put into the next one."""
        places = np.clip(np.round((sequences[..., :2] + 1.0) / 2.0 * (self.size - 1)), 0, self.size - 1).astype(np.int64)
        cells = places[..., 0] * self.size + places[..., 1] + 1
        cells[:, 2:] *= sequences[:, 2:, 2] > 0
        rows = []
        for goal, agent, *blocks in cells.tolist():
            agent = agent % self.size**2 + 1 if agent == goal else agent
            rows.append(self._ordered(goal, agent, np.array(sorted({*blocks} - {0, goal, agent}))))
        return np.array(rows).reshape(len(rows), len(self.names))

    def of_grid(self, blocked: np.ndarray, goal: tuple[int, int], agent: tuple[int, int]) -> np.ndarray:
        """The layout of a grid [S, S] of blocks, with the goal and the agent at (row, column), [P] for as many blocks as it has."""
        ends = [self._cell(*goal), self._cell(*agent)]
        return np.array([*ends, *(np.flatnonzero(blocked.ravel()) + 1)], float)

    def _cell(self, row: int, column: int) -> int:
        return row * self.size + column + 1

    def _ordered(self, goal: int, agent: int, blocks: np.ndarray) -> np.ndarray:
        layout = np.zeros(2 + self.blocks)
        layout[:2] = goal, agent
        layout[2 : 2 + len(blocks)] = blocks
        return layout

    def _of_keys(self, keys: np.ndarray) -> np.ndarray:
        """Layouts [N, P] from numbers [N, S² + 1] in 0 … 1: the order of the first S² shuffles the cells, the last is for the count."""
        cells = np.argsort(keys[:, :-1], axis=1)[:, : 2 + self.blocks] + 1
        left_out = self.size**2 + 1  # sorts last
        counts = (keys[:, -1] * (self.blocks + 1)).astype(np.int64)
        blocks = np.where(np.arange(self.blocks) < counts[:, None], cells[:, 2:], left_out)
        blocks = np.sort(blocks, axis=1)
        return np.concatenate([cells[:, :2], np.where(blocks == left_out, 0, blocks)], axis=1).astype(float)


def is_solvable(layout: np.ndarray, size: int) -> bool:
    """Whether the agent of a layout can reach the goal."""
    blocked = np.zeros(size**2, bool)
    cells = layout[2:].astype(np.int64)
    blocked[cells[cells > 0] - 1] = True
    return int(distances(blocked.reshape(size, size), _place(layout[1], size))[_place(layout[0], size)]) >= 0


def distances(blocked: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """The steps from a cell to every other one, [S, S] int64; -1 where it cannot be reached."""
    steps = np.full(blocked.shape, -1)
    steps[start] = 0
    waiting = deque([start])
    while waiting:
        row, column = waiting.popleft()
        for there in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if all(0 <= at < side for at, side in zip(there, blocked.shape, strict=True)) and not blocked[there] and steps[there] < 0:
                steps[there] = steps[row, column] + 1
                waiting.append(there)
    return steps


def _place(cell: float, size: int) -> tuple[int, int]:
    row, column = divmod(int(cell) - 1, size)
    return row, column


def rooms(size: int, a_side: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks [S, S] of `a_side` x `a_side` rooms; each two neighbours have a door at a random place of the wall between them."""
    blocked = np.zeros((size, size), bool)
    walls = np.linspace(-1, size, a_side + 1).round().astype(int)
    for wall in walls[1:-1]:
        blocked[wall], blocked[:, wall] = True, True
    for wall in walls[1:-1]:
        for before, after in itertools.pairwise(walls):
            blocked[wall, rng.integers(before + 1, after)] = False
            blocked[rng.integers(before + 1, after), wall] = False
    return blocked


def perfect(size: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks [S, S], S odd, of a maze with one way between any two cells, by a random walk that goes back where it cannot go on."""
    blocked = np.ones((size, size), bool)
    way = [(0, 0)]
    blocked[0, 0] = False
    while way:
        row, column = way[-1]
        ahead = [(row + down, column + right) for down, right in ((2, 0), (-2, 0), (0, 2), (0, -2))]
        ahead = [there for there in ahead if min(there) >= 0 and max(there) < size and blocked[there]]
        if not ahead:
            way.pop()
            continue
        there = ahead[int(rng.integers(len(ahead)))]
        blocked[there] = blocked[(row + there[0]) // 2, (column + there[1]) // 2] = False
        way.append(there)
    return blocked


def spiral(size: int) -> np.ndarray:
    """Blocks [S, S], S odd, of one way that winds from the first cell to the middle."""
    blocked = np.ones((size, size), bool)
    row, column, (down, right) = 0, 0, (0, 1)
    blocked[0, 0] = False
    while True:
        ahead = (row + 2 * down, column + 2 * right)
        if not (min(ahead) >= 0 and max(ahead) < size and blocked[ahead]):
            down, right = right, -down
            ahead = (row + 2 * down, column + 2 * right)
            if not (min(ahead) >= 0 and max(ahead) < size and blocked[ahead]):
                return blocked
        blocked[row + down, column + right] = blocked[ahead] = False
        row, column = ahead


def comb(size: int) -> np.ndarray:
    """Blocks [S, S], S odd, of a corridor in the middle row with dead ends to both sides."""
    blocked = np.zeros((size, size), bool)
    blocked[:, 1::2] = True
    blocked[size // 2] = False
    return blocked
