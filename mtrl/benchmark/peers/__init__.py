"""Other trainers on the same tasks of MiniGrid, each in a virtual environment of its own."""

from mtrl.benchmark.peers.comparison import TRAINERS, compare_with_peers, minigrid_ids
from mtrl.benchmark.peers.program import PEERS, PeerProgram, installed, mean_score

__all__ = ["PEERS", "TRAINERS", "PeerProgram", "compare_with_peers", "installed", "mean_score", "minigrid_ids"]
