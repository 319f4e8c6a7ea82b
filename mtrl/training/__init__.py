"""The training loop and the life of a run: `trainer` is the loop, `run` puts reports, checkpoints and signals around it."""

from mtrl.training.trainer import Trainer, build_trainer

__all__ = ["Trainer", "build_trainer"]
