"""Inspects one task. Nothing is raised on account of its environment: what that does wrong is a `Defect`."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from pathlib import Path
from typing import Any

import gymnasium

from envs.inspection.findings import Defect, Inspection, raised
from envs.inspection.player import LONGEST_EPISODE, RandomPlayer
from envs.task import TaskSuite

MOST_COPIES = 8  # environments that are made to measure the memory of one
PLAYING, SEEDING = 0.7, 0.85  # parts of the time after which playing and the comparison of seeds end; the rest is for memory
LONGEST_SPACE = 80  # characters of a space's name
EPISODES_TO_COMPARE = 5  # before anything is concluded from their ends


def inspect_task(suite: TaskSuite, task_id: int, *, seconds: float = 20.0, episodes: int = 20, seed: int = 0) -> Inspection:
    """Plays a random policy in one task's environment and reports what was seen.

    Args:
        suite: the tasks.
        task_id: the one to play.
        seconds: about how long this may take. A step that does not return is not interrupted.
        episodes: the most that are played.
        seed: of the environment and the actions.
    """
    # Of a mixed suite the task's own part: others' arrays and actions say nothing about its environment.
    suite, task_id = suite.alone(task_id)
    found = Inspection(suite.names[task_id])
    start = time.monotonic()
    try:
        env = suite.tasks[task_id].make_env()
    except (Exception, SystemExit) as error:
        found.defects.append(raised("its environment cannot be made", error))
        return found
    found.observation_space, found.action_space = (
        in_short(space) for space in (env.unwrapped.observation_space, env.unwrapped.action_space)
    )
    found.time_limit = env.spec.max_episode_steps if env.spec is not None else None
    player = RandomPlayer(suite, task_id, env, found)
    try:
        player.play(episodes, seed, start + PLAYING * seconds)
        found.defects += [*_defects_of_ends(found, player), *_defects_of_scores(found, suite, task_id)]
        if not found.fatal:
            player.check_seed(seed + 1, start + SEEDING * seconds)
        if not found.fatal:
            _measure_memory(suite, task_id, found, start + seconds)
    finally:
        with contextlib.suppress(Exception, SystemExit):
            env.close()
    return found


def _defects_of_ends(found: Inspection, player: RandomPlayer) -> list[Defect]:
    """What the ends of episodes say; nothing where there are too few."""
    episodes, defects = found.episodes, list[Defect]()
    if found.fatal:
        return []
    if not episodes and found.unfinished_steps:
        steps, limit = found.unfinished_steps, found.time_limit
        if limit is None and steps >= LONGEST_EPISODE:
            text = f"no episode has ended within {steps:,} steps, and there is no time limit: no score can be measured"
            defects.append(Defect(True, f"{text}; register it with max_episode_steps"))
        else:
            within = "without a time limit" if limit is None else f"the time limit is {limit:,}"
            defects.append(
                Defect(False, f"no episode has ended within {steps:,} steps ({within}); a longer check (--seconds) may see an end")
            )
    if len(episodes) < EPISODES_TO_COMPARE:
        return defects
    lengths = {episode.length for episode in episodes}
    if len(lengths) == 1 and all(episode.terminated for episode in episodes) and lengths != {1}:
        defects.append(
            Defect(
                False,
                f"all {len(episodes)} episodes terminated in step {lengths.pop()}: if that is a time limit, report it as truncated, or the "
                "value of what would follow is learned as 0",
            )
        )
    if player.others and set(player.finals) <= player.firsts:
        defects.append(
            Defect(
                False,
                f"the last observation of all {len(episodes)} episodes is one that episodes begin with: if the environment resets itself, "
                "final observations are lost; leave resets to the trainer",
            )
        )
    return defects


def _defects_of_scores(found: Inspection, suite: TaskSuite, task_id: int) -> list[Defect]:
    """Whether an episode can succeed, where nothing else is measured. Suites with a published protocol need not be asked."""
    task = suite.tasks[task_id]
    by_success = suite.scored_by == "success" or task.high is None
    if found.fatal or suite.protocol is not None or not by_success or task.success_return is not None or not found.episodes:
        return []
    if any(episode.success for episode in found.episodes):
        return []
    text = "no episode has succeeded, and the score is the share of those that do: make sure that info['success'] becomes true"
    return [Defect(False, f"{text}, or register a reward_threshold")]


def in_short(space: gymnasium.Space[Any]) -> str:
    """A space in a line, with the outermost bounds of a box."""
    if isinstance(space, gymnasium.spaces.Box):
        return f"Box({space.low.min():g} to {space.high.max():g}, {space.shape}, {space.dtype})"
    if isinstance(space, gymnasium.spaces.Dict):
        return f"Dict({', '.join(f'{name}: {in_short(part)}' for name, part in space.items())})"
    if isinstance(space, gymnasium.spaces.Tuple):
        return f"Tuple({', '.join(map(in_short, space))})"
    if isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiBinary | gymnasium.spaces.MultiDiscrete):
        text = " ".join(str(space).split())
        return text if len(text) <= LONGEST_SPACE else text[: LONGEST_SPACE - 1] + "…"
    return type(space).__name__


def _measure_memory(suite: TaskSuite, task_id: int, found: Inspection, until: float) -> None:
    """Makes copies of the environment, and notes what each adds to the memory of this process."""
    gc.collect()
    before, copies = _resident_bytes(), list[gymnasium.Env[Any, Any]]()
    try:
        while len(copies) < MOST_COPIES and (not copies or time.monotonic() < until):
            copies.append(suite.tasks[task_id].make_env())
            copies[-1].reset(seed=len(copies), options={"number": len(copies)})
        if before is not None and (after := _resident_bytes()) is not None:
            found.bytes_per_environment = max(0.0, (after - before) / len(copies))
    except (Exception, SystemExit) as error:
        found.defects.append(raised("another environment cannot be made beside it", error))
    for env in copies:
        with contextlib.suppress(Exception, SystemExit):
            env.close()


def _resident_bytes() -> int | None:
    """Memory of this process; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
