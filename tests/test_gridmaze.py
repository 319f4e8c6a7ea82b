"""Mazes with levels that a curriculum can write: their layouts, and that an episode is played in the layout of its level."""

from __future__ import annotations

import numpy as np
import pytest

from envs import UnknownTaskError, make_suite
from envs.levels import EditSettings, Level
from envs.suites import gridmaze
from envs.suites.gridmaze_layouts import LayoutSpace, distances, is_solvable, perfect

SPACE = gridmaze.SPACE


def grid_of(layout: np.ndarray) -> np.ndarray:
    """Blocks [S, S] of a layout."""
    blocked = np.zeros(gridmaze.SIZE**2, bool)
    blocked[[int(cell) - 1 for cell in layout[2:] if cell]] = True
    return blocked.reshape(gridmaze.SIZE, gridmaze.SIZE)


def assert_is_a_layout(layout: np.ndarray, space: LayoutSpace = SPACE) -> None:
    goal, agent, blocks = layout[0], layout[1], layout[2:]
    used = blocks[blocks > 0]
    assert layout.shape == (len(space.names),) and min(goal, agent) >= 1 and max(goal, agent) <= space.size**2 and goal != agent
    assert (np.diff(used) > 0).all() and not np.isin([goal, agent], used).any() and not blocks[len(used) :].any()


class TestLayouts:
    """Layouts as numbers."""

    def test_random_ones_have_any_number_of_blocks_in_any_cell(self):
        levels = SPACE.of_training_levels(3000)
        for layout in levels[:200]:
            assert_is_a_layout(layout)
        counts = (levels[:, 2:] > 0).sum(1)
        assert counts.min() == 0 and counts.max() == 50 and counts.mean() == pytest.approx(25, abs=1)
        cells = np.bincount(levels[:, 2:].astype(int).ravel(), minlength=170)[1:]
        assert cells.min() > 0.8 * cells.mean() and cells.max() < 1.2 * cells.mean()

    def test_a_training_level_is_the_same_one_whatever_their_number(self):
        np.testing.assert_array_equal(SPACE.of_training_levels(5000)[:7], SPACE.of_training_levels(7))

    def test_any_sequence_is_a_layout_and_a_layouts_sequence_is_itself(self):
        levels = SPACE.of_training_levels(50)
        sequences = SPACE.sequences_of(levels)
        assert sequences.shape == (50, 52, 3) and np.abs(sequences).max() <= 1
        np.testing.assert_array_equal(SPACE.of_sequences(sequences), levels)
        near = sequences + np.random.default_rng(0).uniform(-0.08, 0.08, sequences.shape)  # cells are 1/6 apart
        np.testing.assert_array_equal(SPACE.of_sequences(near), levels)
        for layout in SPACE.of_sequences(np.random.default_rng(0).normal(size=(300, 52, 3))):
            assert_is_a_layout(layout)
        for number in (-9.0, 0.0, 9.0):
            assert_is_a_layout(SPACE.of_sequences(np.full((1, 52, 3), number))[0])

    def test_an_edit_changes_as_many_cells_as_it_says_at_most(self):
        rng, settings = np.random.default_rng(0), EditSettings(0.1, "gaussian", 5)
        changed = []
        for layout in SPACE.of_training_levels(300):
            edit = SPACE.edited(layout, settings, rng)
            assert_is_a_layout(edit)
            changed.append((grid_of(layout) != grid_of(edit)).sum())
        full = SPACE.edited(np.array([168.0, 169, *range(1, 51)]), EditSettings(0.1, "gaussian", 100), rng)
        assert_is_a_layout(full)
        assert max(changed) == 5 and np.mean(changed) > 3  # the goal and the agent may move, too

    def test_by_hand(self):
        # S.#    The way from the first cell to the one behind the wall goes around it: right, down, down, right, up is blocked.
        # .#G
        # ...
        blocked = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
        np.testing.assert_array_equal(distances(blocked, (0, 0)), [[0, 1, -1], [1, -1, 5], [2, 3, 4]])
        space = LayoutSpace(3, 4)
        assert space.of_grid(blocked, (1, 2), (0, 0)).tolist() == [6, 1, 3, 5]
        assert is_solvable(np.array([6, 1, 3, 5]), 3) and not is_solvable(np.array([6, 1, 3, 5, 9]), 3)


@pytest.mark.parametrize("name", list(gridmaze.TESTED))
def test_every_maze_with_a_plan_can_be_solved_and_varies(name):
    rng = np.random.default_rng(0)
    mazes = [gridmaze.TESTED[name](rng) for _ in range(60)]
    assert all(is_solvable(maze, gridmaze.SIZE) for maze in mazes)
    assert len({maze.tobytes() for maze in mazes}) >= (8 if name == "spiral" else 15)


def test_a_perfect_maze_has_one_way_between_any_two_cells():
    """As many passages between free cells as a tree has, and no cell that cannot be reached."""
    free = ~perfect(13, np.random.default_rng(3))
    passages = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
    assert passages == free.sum() - 1 and (distances(~free, (0, 0)) >= 0).sum() == free.sum()


class TestEnvironment:
    """Episodes."""

    def test_an_episode_is_played_in_the_layout_of_its_level(self):
        env = make_suite("gridmaze/blocks").tasks[0].make_env()
        for number, layout in enumerate(SPACE.of_training_levels(20)):
            observation, _ = env.reset(seed=number, options={"level": Level(number, tuple(layout))})
            inner = env.unwrapped
            shown = np.array([[cell is not None and cell.type == "wall" for cell in row] for row in _cells(inner)])
            np.testing.assert_array_equal(shown, grid_of(layout))
            assert inner.grid.get(*_place(layout[0])).type == "goal" and tuple(inner.agent_pos) == _place(layout[1])
            assert observation["image"].shape == (7, 7, 3)

    def test_walking_to_the_goal_pays_by_the_steps(self):
        env = make_suite("gridmaze/blocks").tasks[0].make_env()
        seen = set()
        for seed in range(12):
            env.reset(seed=seed, options={"level": Level(seed, (4.0, 1.0))})  # the goal is three cells to the right of the agent
            turns = int(env.unwrapped.agent_dir)  # 0 looks to the right
            seen.add(turns)
            results = [env.step(action) for action in [0] * turns + [2] * 3]
            assert [ended for _, _, ended, _, _ in results] == [False] * (turns + 2) + [True]
            assert results[-1][1] == pytest.approx(1 - 0.9 * (turns + 3) / 250)
        assert seen == {0, 1, 2, 3}

    def test_policies_of_blocks_are_tested_on_mazes_with_a_plan(self):
        suite = make_suite("gridmaze/blocks")
        env = suite.tasks[0].for_evaluation().make_env()
        env.reset(seed=0)
        counts = []
        for _ in range(80):
            env.reset()
            counts.append(sum(cell is not None and cell.type == "wall" for row in _cells(env.unwrapped) for cell in row))
        expected = {int(grid_of(maze(np.random.default_rng(0))).sum()) for maze in gridmaze.TESTED.values()}
        assert set(counts) == expected and suite.rules == {"blocks are tested on": "four_rooms, sixteen_rooms, perfect, comb, spiral"}

    def test_an_unknown_maze_is_named(self):
        with pytest.raises(UnknownTaskError, match=r"no task 'spirals'; did you mean spiral"):
            make_suite("gridmaze/spirals")
        assert make_suite("gridmaze/test").names == tuple(gridmaze.TESTED)


def _cells(env):
    """The cells within the outer wall, by rows."""
    return [[env.grid.get(column + 1, row + 1) for column in range(gridmaze.SIZE)] for row in range(gridmaze.SIZE)]


def _place(cell: float) -> tuple[int, int]:
    row, column = divmod(int(cell) - 1, gridmaze.SIZE)
    return column + 1, row + 1
