"""Curricula over levels: which level of its task each new episode plays."""

from mtrl.curriculum.levels.curriculum import LevelCurriculum, LevelRecord, LevelSummary, make_level_curriculum
from mtrl.curriculum.levels.plan import LevelPlan
from mtrl.curriculum.levels.scores import LevelEpisode

__all__ = ["LevelCurriculum", "LevelEpisode", "LevelPlan", "LevelRecord", "LevelSummary", "make_level_curriculum"]
