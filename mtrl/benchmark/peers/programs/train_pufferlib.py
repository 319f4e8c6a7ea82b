"""PufferLib's PPO on MiniGrid's tasks, until it is killed: `python train_pufferlib.py PLAN FOLDER SEED`."""

from __future__ import annotations

import functools
import sys
from typing import Any

import pufferlib.emulation
import pufferlib.pufferl
import pufferlib.vector
import torch
from tasks import make_task
from torch import nn

WORKERS, ENVS = 2, 128
HORIZON = 64
WIDTH = 256

# The defaults of PufferLib 3.0, whose package for the core has no file of them, but for Adam with a rate of its own (Muon is in another
# package) and for batch sizes: theirs are for thousands of environments on a GPU.
SETTINGS = {
    "env": "tasks",
    "device": "cpu",
    "optimizer": "adam",
    "learning_rate": 2.5e-3,
    "anneal_lr": True,
    "adam_beta1": 0.95,
    "adam_beta2": 0.999,
    "adam_eps": 1e-8,
    "total_timesteps": 10**10,
    "gamma": 0.995,
    "gae_lambda": 0.90,
    "update_epochs": 1,
    "clip_coef": 0.2,
    "vf_coef": 2.0,
    "vf_clip_coef": 0.2,
    "max_grad_norm": 1.5,
    "ent_coef": 0.001,
    "batch_size": ENVS * HORIZON,
    "minibatch_size": ENVS * HORIZON // 4,
    "max_minibatch_size": 32768,
    "bptt_horizon": HORIZON,
    "vtrace_rho_clip": 1.0,
    "vtrace_c_clip": 1.0,
    "prio_alpha": 0.8,
    "prio_beta0": 0.2,
    "precision": "float32",
    "compile": False,
    "compile_mode": "default",
    "compile_fullgraph": False,
    "torch_deterministic": True,
    "cpu_offload": False,
    "use_rnn": False,
    "checkpoint_interval": 10**9,
}


class TwoLayers(nn.Module):
    """Two layers of 256, as the other trainers have."""

    def __init__(self, observations: int, actions: int):
        super().__init__()
        self.hidden_size = WIDTH
        self.body = nn.Sequential(nn.Linear(observations, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.actor, self.critic = nn.Linear(WIDTH, actions), nn.Linear(WIDTH, 1)

    def forward(self, observations: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and values."""
        features = self.body(observations.reshape(-1, observations.shape[-1]).float())
        return self.actor(features), self.critic(features)

    def forward_eval(self, observations: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The same."""
        return self.forward(observations, state)


def make_env(plan: str, number: int, buf: Any = None, seed: int = 0) -> Any:
    """As PufferLib calls it in its workers."""
    return pufferlib.emulation.GymnasiumPufferEnv(env_creator=functools.partial(make_task, plan, number), buf=buf, seed=seed)


def main() -> None:
    """Trains with the settings above."""
    plan, folder, seed = sys.argv[1:4]
    creators = [functools.partial(make_env, plan, number) for number in range(ENVS)]
    vector = pufferlib.vector.make(
        creators,
        [[]] * ENVS,
        [{}] * ENVS,
        backend=pufferlib.vector.Multiprocessing,
        num_envs=ENVS,
        num_workers=WORKERS,
        batch_size=ENVS // 2,
    )
    torch.manual_seed(int(seed))
    policy = TwoLayers(vector.single_observation_space.shape[0], int(vector.single_action_space.n))
    trainer = pufferlib.pufferl.PuffeRL(SETTINGS | {"seed": int(seed), "data_dir": folder}, vector, policy)
    while True:
        trainer.evaluate()
        trainer.train()


if __name__ == "__main__":
    main()
