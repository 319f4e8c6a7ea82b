"""Encoders: K experts that each turn an observation into a feature vector.

An encoder is a module with `feature_size` (D) whose `forward(obs, task_ids)` takes the observation's arrays `[N, ...]` and gives
`[N, K, D]`.
`make_encoder` picks one by the observation space; a new kind of observation is a class and a line in `ENCODERS`.
"""

from mtrl.models.encoders.frames import FramesEncoder, ImageEncoder
from mtrl.models.encoders.fused import FusedEncoder
from mtrl.models.encoders.grid import CELL, GridEncoder, MissionEncoder, one_hot
from mtrl.models.encoders.making import ENCODERS, EncoderKind, MixedEncoder, make_encoder
from mtrl.models.encoders.text import ChoicesEncoder, TextEncoder
from mtrl.models.encoders.vector import VectorEncoder

__all__ = [
    "CELL",
    "ENCODERS",
    "ChoicesEncoder",
    "EncoderKind",
    "FramesEncoder",
    "FusedEncoder",
    "GridEncoder",
    "ImageEncoder",
    "MissionEncoder",
    "MixedEncoder",
    "TextEncoder",
    "VectorEncoder",
    "make_encoder",
    "one_hot",
]
