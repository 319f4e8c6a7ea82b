"""The experiment: every setting with its default and what is allowed, and how it is read from YAML."""

from mtrl.config.effects import without_effect
from mtrl.config.loading import dump_yaml, explain, flatten, load_config, override, parse_config, parse_yaml, read_scalar, yaml_fault
from mtrl.config.lookup import look_up
from mtrl.config.schema import (
    CheckpointsConfig,
    ConfigError,
    CurriculumConfig,
    EnvRunnersConfig,
    EvaluationConfig,
    ExperimentConfig,
    FaultsConfig,
    LearnerConfig,
    LearnersConfig,
    LevelsConfig,
    ModelConfig,
    NoveltyConfig,
    OptimizerConfig,
    Section,
    SelfImitationConfig,
    SuiteConfig,
    warn_of_former_name,
)
from mtrl.config.seal import DamagedFileError, check_seal, sealed

__all__ = [
    "CheckpointsConfig",
    "ConfigError",
    "CurriculumConfig",
    "DamagedFileError",
    "EnvRunnersConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "FaultsConfig",
    "LearnerConfig",
    "LearnersConfig",
    "LevelsConfig",
    "ModelConfig",
    "NoveltyConfig",
    "OptimizerConfig",
    "Section",
    "SelfImitationConfig",
    "SuiteConfig",
    "check_seal",
    "dump_yaml",
    "explain",
    "flatten",
    "load_config",
    "look_up",
    "override",
    "parse_config",
    "parse_yaml",
    "read_scalar",
    "sealed",
    "warn_of_former_name",
    "without_effect",
    "yaml_fault",
]
