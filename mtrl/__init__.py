"""A distributed trainer for multi-task reinforcement learning: V-trace, orthogonal experts and a curriculum over tasks."""
