"""What an environment does when random actions are played in it: faults, seeding, ends, sizes, speed and memory."""

from envs.inspection.findings import Defect, Inspection, PlayedEpisode, Rewards
from envs.inspection.task import inspect_task

__all__ = ["Defect", "Inspection", "PlayedEpisode", "Rewards", "inspect_task"]
