"""What an environment does when random actions are played in it: faults, seeding, ends, sizes, speed and memory."""

from envs.inspection.findings import Defect, Inspection, PlayedEpisode, Rewards
from envs.inspection.task import inspect_task
from envs.inspection.workers import WorkerSpeed, worker_speed

__all__ = ["Defect", "Inspection", "PlayedEpisode", "Rewards", "WorkerSpeed", "inspect_task", "worker_speed"]
