"""An encoder of one's own: experts that read a vector through one layer and a sine."""

import sys

import gymnasium
import torch
from torch import Tensor, nn

from mtrl.cli import main
from mtrl.config import ModelConfig
from mtrl.models.encoders import ENCODERS, EncoderKind


class SineEncoder(nn.Module):
    """K experts: sin(W x + b). An encoder maps observations [N, ...] to features [N, K, D] and names D."""

    feature_size = 32

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        size = space["vector"].shape[0]
        self.experts = nn.ModuleList(nn.Linear(size, self.feature_size) for _ in range(model.experts))

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        """The experts' features of N observations."""
        return torch.stack([expert(obs["vector"].float()).sin() for expert in self.experts], dim=1)


def fits(space: gymnasium.spaces.Dict) -> bool:
    """Whether the encoder reads this observation space; the newest entry of ENCODERS that does is taken."""
    return set(space) == {"vector"}


ENCODERS["sine"] = EncoderKind(fits, SineEncoder)

if __name__ == "__main__":
    sys.exit(main(["train", "toy", *sys.argv[1:]]))
