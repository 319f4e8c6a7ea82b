"""The trainer as an RLlib algorithm: `MultiTaskIMPALAConfig.from_experiment("configs/minigrid_mt7.yaml").build_algo().train()`."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_trainable
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from envs import make_suite
from mtrl.config import ConfigError, ExperimentConfig, load_config, override
from mtrl.distributed.env_runner import MultiTaskEnvRunner
from mtrl.distributed.learner import PolicyLearner
from mtrl.distributed.module import PolicyModule
from mtrl.distributed.remote_learners import RemoteLearners
from mtrl.distributed.settings import changed_settings, check_settings, mapped_fields
from mtrl.distributed.source import RaySource
from mtrl.distributed.start import StartError, death_of, stop_runners, watched_start
from mtrl.distributed.watchdog import forget
from mtrl.distributed.weight_server import WeightServer
from mtrl.evaluation.unsaved import evaluate_weights
from mtrl.learning.learner import Learner
from mtrl.models.policy import load_weights
from mtrl.training.trainer import Trainer, leave_threads_to_learner

FIELDS_OF_IMPALA = {
    "vf_loss_coeff": "learner.value_cost",
    "vtrace_clip_rho_threshold": "learner.rho_bar",
    "vtrace_clip_pg_rho_threshold": "learner.rho_bar",
    "num_gpus": "learner.device",
    "minibatch_size": "learner.minibatches",
    "num_epochs": "learner.epochs",
    "grad_clip": "learner.actor.max_grad_norm",
}
"""Settings of RLlib's IMPALA, and the fields that have their effect here."""
LOSSES = {"policy_loss": "learner/policy_loss", "vf_loss": "learner/value_loss", "entropy": "learner/entropy"}  # RLlib's names and ours

logger = logging.getLogger("mtrl")


class MultiTaskIMPALAConfig(AlgorithmConfig):
    """RLlib's way to write down an experiment. What RLlib has a method for is set there; everything else is the experiment's."""

    def __init__(self, algo_class: Any = None):
        super().__init__(algo_class=algo_class or MultiTaskIMPALA)
        self.base_experiment = ExperimentConfig().model_dump()
        self.weight_server: str | None = None
        self.total_frames: int | None = None
        self.entropy_coeff: float | None = None
        self.lr = self.gamma = None
        self.seed = None
        self.num_env_runners = ExperimentConfig().env_runners.num_env_runners
        self.num_cpus_per_learner = ExperimentConfig().learners.num_cpus_per_learner
        self.env_runner_cls = MultiTaskEnvRunner
        self.create_local_env_runner = False
        self.restart_failed_env_runners = True
        self.max_requests_in_flight_per_env_runner = ExperimentConfig().env_runners.rollouts_in_flight
        self.validate_env_runners_after_construction = False
        self.min_time_s_per_iteration = 1
        self._dont_auto_sync_env_runner_states = True

    @classmethod
    def from_experiment(cls, experiment: str | Path | ExperimentConfig) -> Self:
        """The configuration of an experiment, given as such or as the path of its YAML file.

        Raises:
            ConfigError: the file cannot be read or does not hold an experiment.
        """
        resolved = experiment if isinstance(experiment, ExperimentConfig) else load_config(experiment)
        runners, learners = resolved.env_runners, resolved.learners
        config = cls()
        config.base_experiment = resolved.model_dump()
        config.max_requests_in_flight_per_env_runner = runners.rollouts_in_flight
        return config.env_runners(
            num_env_runners=runners.num_env_runners,
            num_cpus_per_env_runner=runners.num_cpus_per_env_runner,
            num_gpus_per_env_runner=runners.num_gpus_per_env_runner,
        ).learners(
            num_learners=learners.num_learners,
            num_cpus_per_learner=learners.num_cpus_per_learner,
            num_gpus_per_learner=learners.num_gpus_per_learner,
        )

    def training(
        self,
        *,
        lr: Any = NotProvided,
        gamma: Any = NotProvided,
        entropy_coeff: Any = NotProvided,
        total_frames: Any = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """The learner's settings that are searched most; `tune.grid_search` may stand for each.

        Args:
            lr: learning rate of actor and critic.
            gamma: discount.
            entropy_coeff: weight of the entropy.
            total_frames: where a decaying learning rate arrives at 0.
            kwargs: RLlib's other settings; `validate` refuses those that have no effect here.

        Raises:
            ConfigError: a setting of another algorithm of RLlib, such as IMPALA's `vf_loss_coeff`.
        """
        known = inspect.signature(super().training).parameters
        for name in kwargs:
            if name not in known:
                ours = FIELDS_OF_IMPALA.get(name)
                hint = f"set {ours} of the experiment" if ours else "the experiment has its own settings (docs/configuration.md)"
                raise ConfigError(f"training({name}=…) is no setting of MultiTaskIMPALA; {hint}")
        super().training(**kwargs)
        given = {"lr": lr, "gamma": gamma, "entropy_coeff": entropy_coeff, "total_frames": total_frames}
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def experiment(self) -> ExperimentConfig:
        """The resolved experiment.

        Raises:
            ConfigError: a value is out of range.
        """
        changes: dict[str, Any] = {
            "env_runners.num_env_runners": self.num_env_runners,
            "env_runners.num_cpus_per_env_runner": self.num_cpus_per_env_runner,
            "env_runners.num_gpus_per_env_runner": self.num_gpus_per_env_runner,
            "learners.num_learners": 0 if self.in_evaluation else self.num_learners,
            "learners.num_cpus_per_learner": self._cpus_per_learner(),
            "learners.num_gpus_per_learner": self.num_gpus_per_learner,
        }
        fields = {
            "lr": ("learner.actor.learning_rate", "learner.critic.learning_rate"),
            "gamma": ("learner.discount",),
            "entropy_coeff": ("learner.entropy_cost",),
            "total_frames": ("total_frames",),
            "seed": ("seed",),
        }
        for name, targets in fields.items():
            value = getattr(self, name)
            if value is not None:
                changes |= dict.fromkeys(targets, value.item() if isinstance(value, np.generic) else value)
        changes |= mapped_fields(self)
        return override(ExperimentConfig.model_validate(self.base_experiment), changes)

    def _cpus_per_learner(self) -> float:
        """RLlib's `auto` is a core for those without a GPU."""
        wanted: Any = self.num_cpus_per_learner
        return float(self.num_gpus_per_learner == 0) if wanted == "auto" else float(wanted)

    def validate(self) -> None:
        """Refuses what this algorithm does not do or read.

        Raises:
            ConfigError: one sentence.
        """
        experiment = self.experiment()
        if experiment.env_runners.num_env_runners < 1 and not self.in_evaluation:
            raise ConfigError("MultiTaskIMPALA needs num_env_runners >= 1; without Ray, use mtrl.training.trainer.build_trainer")
        if not self.in_evaluation:
            check_settings(self)
        suite = make_suite(experiment.suite.name)
        self.observation_space, self.action_space = suite.observation_space, suite.action_space

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The policy."""
        return RLModuleSpec(module_class=PolicyModule, model_config={"experiment": self.experiment().model_dump()})

    def get_default_learner_class(self) -> type[PolicyLearner]:
        """The learner."""
        return PolicyLearner


class MultiTaskIMPALA(Algorithm):
    """Runs `mtrl.training.trainer.Trainer` over RLlib's runners and learner."""

    config: Any

    trainer: Trainer

    @classmethod
    def get_default_config(cls) -> MultiTaskIMPALAConfig:
        """The defaults."""
        return MultiTaskIMPALAConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        """Starts the weight server, the runners and the learner, and puts the trainer over them."""
        leave_threads_to_learner()
        self.config = self.config.copy(copy_frozen=False)
        self.config.weight_server = f"mtrl-state-{uuid.uuid4().hex}"
        self.config.freeze()
        # On this node: with any other one the run would lose what its runners pull.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        server = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(WeightServer)
        self._server = server.options(name=self.config.weight_server, scheduling_strategy=here).remote()
        self._set_up_rllib()
        experiment = self.config.experiment()
        runners = experiment.env_runners
        cores = runners.num_env_runners * runners.num_cpus_per_env_runner
        budget, seconds = experiment.faults.budget, experiment.faults.update_seconds
        source = RaySource(self.env_runner_group, self._server, runners.rollouts_in_flight, cores, budget)
        several = self.config.num_learners > 0
        learner = RemoteLearners(self.learner_group, self._new_learners, seconds) if several else self.learner_group._learner.core
        self._updated, self._said = False, list[str]()  # in this iteration
        self.trainer = Trainer(experiment, make_suite(experiment.suite.name), source, learner)

    def _set_up_rllib(self) -> None:
        """RLlib's part of the setup. It asks the first runner for its spaces, and fails without a reason if that runner is dead.

        Raises:
            StartError: a runner does not start.
        """
        try:
            with watched_start(self._runners, self.config.num_cpus_per_env_runner) as watch:
                super().setup(self.config)
        except IndexError:
            reason = watch.reason or death_of(self._runners())
            if reason is None:
                raise
            stop_runners(self.env_runner_group)
            raise StartError(f"a runner does not start: {reason}") from None

    def _runners(self) -> list[Any]:
        """The actors of the runners, as far as there are any yet."""
        group = getattr(self, "env_runner_group", None)
        return [] if group is None else list(group._worker_manager.actors().values())

    def _setup_logdir(self) -> None:
        """Outside Tune, a temporary folder. RLlib would make one in the home folder for every run, where there may be no home folder."""
        if self._storage:
            super()._setup_logdir()
        else:
            self._logdir = tempfile.mkdtemp(prefix="MultiTaskIMPALA-")

    def _new_learners(self) -> LearnerGroup:
        self.learner_group = self.config.build_learner_group(rl_module_spec=self.config.get_multi_rl_module_spec())
        return self.learner_group

    def training_step(self) -> None:
        """One update, or a second's wait for one. What the trainer has to say goes to the log at once."""
        self._updated = self.trainer.step() or self._updated
        for message in self.trainer.messages():
            logger.warning(message)
            self._said.append(message)

    def _run_one_training_iteration(self) -> tuple[dict[str, Any], None]:
        """Training steps for `min_time_s_per_iteration` seconds, until there was at least one update.

        RLlib's `step` calls this, then evaluates if it is time to, and takes the second value for the older API alone. RLlib's own loop
        would bring back runners that died, which `RaySource` does, and could end without an update.
        """
        end = time.monotonic() + (self.config.min_time_s_per_iteration or 0)
        self._updated, self._said = False, []
        while not self._updated or time.monotonic() < end:
            self.training_step()
        return self._results(), None

    def _results(self) -> dict[str, Any]:
        """Figures by our names and by those that RLlib's users know; `messages` is what `training_step` has written to the log."""
        metrics = self.trainer.metrics()
        returns = self.trainer.statistics.returns
        return {
            **metrics,
            "timesteps_total": self.trainer.frames,
            "messages": self._said,
            "env_runners": {
                "episode_return_mean": float(np.nanmean(returns)) if not np.isnan(returns).all() else float("nan"),
                "num_env_steps_sampled_lifetime": self.trainer.frames,
                "num_episodes_lifetime": int(self.trainer.statistics.episodes.sum()),
            },
            # Without the losses if none is known, since all steps were skipped.
            "learners": {"default_policy": {name: metrics[ours] for name, ours in LOSSES.items() if ours in metrics}},
        }

    def get_module(self, module_id: str = DEFAULT_MODULE_ID) -> PolicyModule | None:
        """The policy with the learner's present weights, in this process; None for any other id than the default one."""
        if module_id != DEFAULT_MODULE_ID:
            return None
        if isinstance(self.trainer.learner, Learner):
            local: PolicyModule = self.learner_group._learner.module[module_id]
            return local
        module: PolicyModule = self.config.get_default_rl_module_spec().build()
        load_weights(module.policy, {name: torch.from_numpy(array) for name, array in self.trainer.policy_weights().items()})
        return module

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Plays the present policy by the suite's protocol, in this process, or as `custom_evaluation_function` does it.

        Returns:
            RLlib's names under `env_runners`, and under `tasks` each task's score, success rate and mean return.
        """
        if self.config.custom_evaluation_function is not None:
            custom: dict[str, Any] = super().evaluate(parallel_train_future)
            return custom
        self._call("on_evaluate_start")
        asked = changed_settings(self.config).get("evaluation_duration")
        results = evaluate_weights(self.config.experiment(), self.trainer.policy_weights(), episodes=asked)
        self._call("on_evaluate_end", evaluation_metrics=results)
        return results

    def _call(self, name: str, **arguments: Any) -> None:
        """Calls the user's callbacks of this name."""
        given = {"algorithm": self, "metrics_logger": self.metrics, **arguments}
        make_callback(name, callbacks_objects=self.callbacks, callbacks_functions=getattr(self.config, f"callbacks_{name}"), kwargs=given)

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state and the trainer's."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        return state | {"trainer": self.trainer.state_dict()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores RLlib's state and the trainer's."""
        super().set_state({name: value for name, value in state.items() if name != "trainer"})
        if "trainer" in state:
            self.trainer.load_state_dict(state["trainer"])

    def cleanup(self) -> None:
        """Stops everything that `setup` started."""
        if hasattr(self, "trainer"):
            self.trainer.close()
        if getattr(self, "env_runner_group", None) is not None:
            stop_runners(self.env_runner_group)  # RLlib would wait for all of them without a limit
        super().cleanup()
        if not self._storage:
            with contextlib.suppress(OSError):  # something is in it
                os.rmdir(self._logdir)
        if hasattr(self, "_server"):
            ray.kill(self._server)
            forget(self.config.weight_server, self.config.num_env_runners)


register_trainable("MultiTaskIMPALA", MultiTaskIMPALA)
