"""Sample Factory's APPO on MiniGrid's tasks, until it is killed: `python train_sample_factory.py PLAN FOLDER SEED`."""

from __future__ import annotations

import functools
import sys
from typing import Any

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl
from tasks import make_task

WORKERS, ENVS_PER_WORKER = 2, 16
SETTINGS = {
    "algo": "APPO",
    "env": "tasks",
    "experiment": "peer",
    "device": "cpu",
    "num_workers": WORKERS,
    "num_envs_per_worker": ENVS_PER_WORKER,
    "worker_num_splits": 2,
    "use_rnn": False,
    "recurrence": 1,
    "encoder_mlp_layers": "256 256",
    "nonlinearity": "tanh",
    "normalize_input": False,
    "train_for_env_steps": 10**10,
    "save_every_sec": 10**6,
}


def make_env(plan: str, name: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> Any:
    """As Sample Factory calls it, here and in its workers; without a configuration it wants the spaces alone."""
    return make_task(plan, 0 if env_config is None else int(env_config.env_id))


def main() -> None:
    """Trains with Sample Factory's own defaults for all that is not in `SETTINGS`."""
    plan, folder, seed = sys.argv[1:4]
    register_env("tasks", functools.partial(make_env, plan))
    arguments = [f"--train_dir={folder}", f"--seed={seed}"]
    for name, value in SETTINGS.items():
        arguments += [f"--{name}", *str(value).split()]
    parser, _ = parse_sf_args(arguments)
    run_rl(parse_full_cfg(parser, arguments))


if __name__ == "__main__":
    main()
