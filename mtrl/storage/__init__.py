"""Files on disk: sealed files, checkpoints, the run's directory, its mirror and its lock."""
