"""Meta-World's scripted policies through our contract, on both backends, and in Meta-World's own environments driven directly.

    python docs/experiments/measure_conformance.py [EPISODES]

For all fifty tasks: successes and mean return, and those whose returns differ by more than 3 standard errors and a tenth.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import metaworld
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from envs import make_suite, make_vector
from envs.suites.metaworld import MAX_STEPS


def through_us(task: str, backend: str, episodes: int) -> list[tuple[bool, float]]:
    """Success and return of each episode, one in each slot."""
    suite = make_suite(f"metaworld/{task}")
    if backend not in suite.backends:
        return []
    tasks, policy = make_vector(suite, episodes, backend=backend, seed=3), ENV_POLICY_MAP[f"{task}-v3"]()  # type: ignore[arg-type]
    obs, ended = tasks.reset(), []
    for _ in range(MAX_STEPS):
        step = tasks.step(np.stack([policy.get_action(row.astype(np.float64)) for row in obs["vector"]]).astype(np.float32))
        obs, ended = step.obs, ended + step.episodes
    tasks.close()
    return [(episode.success, episode.episode_return) for episode in ended]


def directly(task: str, episodes: int) -> list[tuple[bool, float]]:
    """The same in Meta-World's environments as its package makes them, each with a goal of its training set."""
    goals, policy = metaworld.MT1(f"{task}-v3", seed=7).train_tasks, ENV_POLICY_MAP[f"{task}-v3"]()
    env = metaworld.env_dict.ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    rows = []
    for goal in goals[:episodes]:
        env.set_task(goal)
        obs, _ = env.reset()
        total, succeeded = 0.0, False
        for _ in range(MAX_STEPS):
            obs, reward, _, _, info = env.step(np.clip(policy.get_action(obs), -1, 1).astype(np.float32))
            total, succeeded = total + float(reward), succeeded or info["success"] > 0
        rows.append((succeeded, total))
    return rows


def main() -> None:
    """Prints a row for each task."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{'task':32} {'directly':>16} {'gymnasium':>16} {'envpool':>16}")
    differing = []
    for task in make_suite("metaworld/mt50").names:
        columns = [directly(task, episodes), through_us(task, "gymnasium", episodes), through_us(task, "envpool", episodes)]
        shown = [f"{sum(s for s, _ in rows):3d} {np.mean([r for _, r in rows]):9.1f}" if rows else "-" for rows in columns]
        print(f"{task:32} {shown[0]:>16} {shown[1]:>16} {shown[2]:>16}", flush=True)
        reference = np.array([r for _, r in columns[0]])
        for name, rows in zip(("gymnasium", "envpool"), columns[1:], strict=True):
            returns = np.array([r for _, r in rows])
            if len(returns):
                error = np.sqrt(reference.var(ddof=1) / len(reference) + returns.var(ddof=1) / len(returns))
                if abs(returns.mean() - reference.mean()) > 3 * error + 0.1 * abs(reference.mean()):
                    differing.append(f"{task} on {name}")
    print("differ: " + (", ".join(differing) or "none"))


if __name__ == "__main__":
    main()
