"""RLlib's settings: those that this algorithm reads, those that stand for a field of the experiment, and what is said of all others.

The rule is the same for every setting: what differs from its default is read, mapped with a warning, or refused by name.
"""

from __future__ import annotations

import warnings
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback

from envs import SuiteError, make_suite
from mtrl.config import ConfigError

MAPPED = {
    "num_envs_per_env_runner": "env_runners.slots",
    "rollout_fragment_length": "env_runners.unroll_length",
    "num_epochs": "learner.epochs",
    "grad_clip": "learner.actor.max_grad_norm",
}
"""Settings with a field of the experiment that means the same."""

READ = frozenset(
    {
        *("base_experiment", "weight_server", "lr", "gamma", "entropy_coeff", "total_frames", "seed", "env"),
        *("num_env_runners", "num_cpus_per_env_runner", "num_gpus_per_env_runner", "custom_resources_per_env_runner"),
        *("num_learners", "num_cpus_per_learner", "num_gpus_per_learner", "custom_resources_per_learner"),
        *("max_requests_in_flight_per_env_runner", "restart_failed_env_runners", "max_num_env_runner_restarts"),
        *("delay_between_env_runner_restarts_s", "env_runner_health_probe_timeout_s", "env_runner_restore_timeout_s"),
        *("num_consecutive_env_runner_failures_tolerance", "min_time_s_per_iteration", "log_level", "log_sys_usage"),
        *("evaluation_interval", "evaluation_duration", "custom_evaluation_function", "callbacks_class"),
        *("num_cpus_for_main_process", "custom_resources_for_main_process", "placement_strategy"),
        *("extra_python_environs_for_driver", "extra_python_environs_for_worker", "_use_msgpack_checkpoints", "_validate_config"),
        *("framework_str", "export_native_model_files", "checkpoint_trainable_policies_only", "keep_per_episode_custom_metrics"),
        *("algo_class", "in_evaluation", "_is_frozen", "_is_atari", "observation_space", "action_space", "policies", "policy_mapping_fn"),
        *(
            "stats_cls_lookup",
            "enable_rl_module_and_learner",
            "enable_env_runner_and_connector_v2",
            "_rl_module_spec",
            "create_local_env_runner",
        ),
    }
)
"""Settings that this algorithm or RLlib's machinery under it reads, and those that RLlib sets itself."""

CALLED = frozenset({"on_algorithm_init", "on_train_result", "on_evaluate_start", "on_evaluate_end", "on_checkpoint_loaded"})
"""RLlib's callbacks that are called. Episodes are played many at once and never become RLlib's objects."""

_BATCH = "a batch is learner.rollouts_per_update x env_runners.slots x env_runners.unroll_length of the experiment"
HINTS = {
    "train_batch_size_per_learner": _BATCH,
    "_train_batch_size_per_learner": _BATCH,
    "train_batch_size": _BATCH,
    "minibatch_size": "the experiment counts them: learner.minibatches",
    "env_config": "register the environment with its arguments in Gymnasium, and name it as the suite gym/ID",
    "model": "the network is the experiment's model.*",
    "_model_config": "the network is the experiment's model.*",
    "explore": "the protocol of an evaluation says whether actions are sampled: evaluate --actions",
    "evaluation_config": "evaluations follow the suite's protocol",
    "evaluation_duration_unit": "evaluations are counted in episodes",
    "evaluation_num_env_runners": "evaluations are played by the driver; for long ones use `launch.py evaluate`",
    "clip_rewards": "set learner.clip_rewards of the experiment",
    "observation_filter": "set model.normalize_observations of the experiment",
    "grad_clip_by": "gradients are clipped by their global norm",
    "num_gpus": "set num_gpus_per_learner",
    "local_gpu_idx": "the learner of this process takes the first GPU; choose it with CUDA_VISIBLE_DEVICES",
}
"""Where to set what a refused setting is about."""


def check_settings(config: Any) -> None:
    """Warns of settings that are read as a field of the experiment, and refuses those that are not read at all.

    Raises:
        ConfigError: names every setting that would have no effect.
    """
    _check_callbacks(config)
    changed = changed_settings(config)
    refused = [name for name in changed if name not in READ and name not in MAPPED and not name.startswith("callbacks_on_")]
    if refused:
        listed = "; ".join(f"{name.removeprefix('_')}={_shown(changed[name])}{_hint(name)}" for name in refused)
        raise ConfigError(f"MultiTaskIMPALA does not read {listed}; other fields of the experiment are set by from_experiment(...)")
    for name, field in MAPPED.items():
        if name in changed:
            warnings.warn(f"mtrl reads {name}={_shown(changed[name])} as the experiment's {field}", stacklevel=3)
    if "env" in changed:
        warnings.warn(f"mtrl trains the suite {suite_of(config.env)} for env={config.env!r}", stacklevel=3)
    if "evaluation_duration" in changed:
        warnings.warn(f"mtrl plays evaluation_duration={config.evaluation_duration} episodes of each task", stacklevel=3)


def changed_settings(config: Any) -> dict[str, Any]:
    """The settings that differ from the defaults, with their values."""
    defaults = vars(type(config)())
    return {name: value for name, value in vars(config).items() if name in defaults and not _same(value, defaults[name])}


def mapped_fields(config: Any) -> dict[str, Any]:
    """The experiment's fields that settings stand for: dotted name → value."""
    changed = changed_settings(config)
    fields = {field: changed[name] for name, field in MAPPED.items() if name in changed}
    if "grad_clip" in changed:
        fields["learner.critic.max_grad_norm"] = changed["grad_clip"]
    if "max_requests_in_flight_per_env_runner" in changed:
        fields["env_runners.rollouts_in_flight"] = config.max_requests_in_flight_per_env_runner
    if config.env is not None:
        fields["suite.name"] = suite_of(config.env)
    return fields


def suite_of(env: Any) -> str:
    """The suite that RLlib's `env` names: one of ours, or an id of Gymnasium's registry.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(env, str):
        raise ConfigError(f"env is {_shown(env)}; register the class in Gymnasium, and give its id")
    reasons = []
    for name in (env, f"gym/{env}"):
        try:
            return make_suite(name).name
        except SuiteError as error:
            reasons.append(str(error))
    raise ConfigError(f"env {env!r} is no suite ({reasons[0]}) and no id of Gymnasium's ({reasons[1]})")


def _check_callbacks(config: Any) -> None:
    classes = config.callbacks_class if isinstance(config.callbacks_class, list | tuple) else [config.callbacks_class]
    names = {name for name in dir(RLlibCallback) if name.startswith("on_")}
    given = {name for each in classes for name in names if getattr(each, name, None) is not getattr(RLlibCallback, name)}
    given |= {name for name in names if getattr(config, f"callbacks_{name}", None) is not None}
    missed = sorted(given - CALLED)
    if missed:
        raise ConfigError(
            f"MultiTaskIMPALA never calls {', '.join(missed)}, since many episodes are played at once and never become RLlib's; it calls "
            f"{', '.join(sorted(CALLED))}"
        )


def _same(value: Any, default: Any) -> bool:
    if callable(value) and callable(default):  # bound to the class of either configuration
        return bool(value == default or getattr(value, "__qualname__", value) == getattr(default, "__qualname__", default))
    try:
        return bool(value is default or value == default)
    except Exception:  # arrays and search spaces compare as they like
        return False


def _hint(name: str) -> str:
    return f" ({HINTS[name]})" if name in HINTS else ""


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:59] + "…"
