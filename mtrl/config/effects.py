"""Settings without effect: those that differ from their defaults and that nothing reads beside the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl.config.loading import flatten
from mtrl.config.schema import ExperimentConfig


class Rule(NamedTuple):
    """The condition under which fields are read."""

    fields: tuple[str, ...]  # dotted names; a section's name stands for all of its fields
    read: Callable[[ExperimentConfig], bool]
    needs: str  # the condition in words


RULES = (
    Rule(("suite.env_workers",), lambda c: c.suite.backend != "envpool", "suite.backend auto or gymnasium"),
    Rule(("model.gate_experts",), lambda c: c.model.gate in ("topk", "dselect_k"), "model.gate topk or dselect_k"),
    Rule(
        ("model.private_share", "model.learn_private_share", "model.private_width"),
        lambda c: c.model.gate == "safe" or ":" in c.model.gate,  # a gate of one's own may have private branches, too
        "model.gate safe",
    ),
    Rule(("learner.gate_cost",), lambda c: c.model.gate == "dselect_k", "model.gate dselect_k"),
    Rule(
        ("model.memory_size", "model.memory_t_max", "learner.memory_learning_rate_factor"),
        lambda c: c.model.memory,
        "model.memory true",
    ),
    Rule(("model.popart_min_scale", "learner.popart_rate"), lambda c: c.model.popart, "model.popart true"),
    Rule(("model.task_vector_size",), lambda c: c.model.conditioning != "one_hot", "model.conditioning embedding or sentence"),
    Rule(
        ("learner.proximal_decay",),
        lambda c: c.learner.proximal == "average" and c.learner.surrogate == "clipped",
        "learner.proximal average and learner.surrogate clipped",
    ),
    Rule(
        ("learner.clip", "learner.dual_clip", "learner.proximal", "learner.target_kl"),
        lambda c: c.learner.surrogate == "clipped",
        "learner.surrogate clipped",
    ),
    Rule(("learner.advantage_floor",), lambda c: c.learner.normalize_advantages, "learner.normalize_advantages true"),
    Rule(("learner.critic", "learner.critic_updates"), lambda c: c.model.trunks == "separate", "model.trunks separate"),
    Rule(("learner.combiner_space",), lambda c: c.learner.combiner != "sum", "another learner.combiner than sum"),
    Rule(("learner.minibatch_of", "learner.recompute_targets"), lambda c: c.learner.minibatches > 1, "learner.minibatches above 1"),
    Rule(("learner.actor.decay_from",), lambda c: c.learner.actor.decay, "learner.actor.decay true"),
    Rule(("learner.critic.decay_from",), lambda c: c.learner.critic.decay, "learner.critic.decay true"),
    Rule(
        tuple(f"learner.novelty.{name}" for name in ("rule", "episodic", "decay", "learning_rate", "updates")),
        lambda c: c.learner.novelty.weight > 0,
        "learner.novelty.weight above 0",
    ),
    Rule(
        tuple(f"learner.self_imitation.{name}" for name in ("value_weight", "traces", "capacity")),
        lambda c: c.learner.self_imitation.weight > 0,
        "learner.self_imitation.weight above 0",
    ),
    Rule(
        ("learner.novelty.previous",),
        lambda c: c.learner.novelty.weight > 0 and c.learner.novelty.rule == "noveld",
        "learner.novelty.weight above 0 and learner.novelty.rule noveld",
    ),
    Rule(("learner.entropy_target_rate",), lambda c: c.learner.entropy_target is not None, "learner.entropy_target"),
    Rule(("learner.entropy_decay",), lambda c: c.learner.entropy_cost > 0, "learner.entropy_cost above 0"),
    Rule(
        ("learners.num_cpus_per_learner", "learners.num_gpus_per_learner"),
        lambda c: c.learners.num_learners > 0,
        "learners.num_learners above 0",
    ),
    Rule(
        ("learner.device",),
        lambda c: c.learners.num_learners == 0,
        "learners.num_learners 0; others take the GPUs that are reserved for them",
    ),
    Rule(
        ("env_runners.num_cpus_per_env_runner", "env_runners.num_gpus_per_env_runner", "faults"),
        lambda c: c.env_runners.num_env_runners > 0,
        "env_runners.num_env_runners above 0",
    ),
    Rule(
        ("model.observation_least_deviation", "model.observation_memory"),
        lambda c: c.model.normalize_observations,
        "model.normalize_observations",
    ),
    Rule(("curriculum.levels",), lambda c: c.curriculum.levels.sampler is not None, "curriculum.levels.sampler"),
    Rule(
        ("curriculum.levels.score", "curriculum.levels.buffer_size"),
        lambda c: c.curriculum.levels.sampler in (None, "plr", "plr_robust", "accel", "clutr"),
        "curriculum.levels.sampler plr, plr_robust, accel or clutr",
    ),
    Rule(
        tuple(f"curriculum.levels.{name}" for name in ("replay_probability", "temperature", "staleness")),
        lambda c: c.curriculum.levels.sampler in (None, "plr", "plr_robust", "accel"),
        "curriculum.levels.sampler plr, plr_robust or accel",
    ),
    Rule(
        tuple(f"curriculum.levels.{name}" for name in ("edit_size", "edit_noise", "edit_cells")),
        lambda c: c.curriculum.levels.sampler in (None, "accel"),
        "curriculum.levels.sampler accel",
    ),
    Rule(
        tuple(
            f"curriculum.levels.{name}"
            for name in ("latent_size", "autoencoder_updates", "teacher_batch", "teacher_learning_rate", "teacher_entropy_cost")
        ),
        lambda c: c.curriculum.levels.sampler in (None, "clutr"),
        "curriculum.levels.sampler clutr",
    ),
    Rule(("evaluation.episodes",), lambda c: c.evaluation.every_frames is not None, "evaluation.every_frames"),
)


def without_effect(config: ExperimentConfig) -> list[str]:
    """A sentence for each setting that differs from its default and has no effect beside the others."""
    values, defaults = flatten(config.model_dump()), flatten(ExperimentConfig().model_dump())
    changed = {name: value for name, value in values.items() if value != defaults.get(name)}
    return [
        f"{name} is {_shown(value)}, but has no effect without {rule.needs}"
        for rule in RULES
        if not rule.read(config)
        for name, value in changed.items()
        if name.startswith(rule.fields) and any(name == field or name.startswith(f"{field}.") for field in rule.fields)
    ]


def _shown(value: Any) -> str:
    return {True: "true", False: "false", None: "null"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
