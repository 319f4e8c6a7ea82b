"""The experiment: what a YAML file in ``configs/`` says, checked.

Every default of the trainer lives here and nowhere else; a YAML file names only what it changes. The models are frozen and refuse fields
they do not know, so a typing error is reported with the field's path and the nearest name instead of being ignored.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import pydantic
from pydantic import Field

from mtrl.errors import UserError


class ConfigError(UserError):
    """An experiment that cannot be run as written. The message has one line per fault: field, value, what is allowed."""


class Section(pydantic.BaseModel):
    """A part of the experiment: frozen, and without unknown fields."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    RENAMED: ClassVar[dict[str, str]] = {}
    """Former names of fields and their present names; the former ones are read for one version."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not cls.RENAMED.keys() & values.keys():
            return values
        for former in cls.RENAMED.keys() & values.keys():
            warn_of_former_name(former, cls.RENAMED[former])
        return {cls.RENAMED.get(name, name): value for name, value in values.items()}


def warn_of_former_name(former: str, present: str) -> None:
    """Says that something has another name now; `FutureWarning` is the category that Python shows to users."""
    warnings.warn(f"{former} is now called {present}; the former name will be refused in the next version", FutureWarning, stacklevel=2)


class SuiteConfig(Section):
    """The tasks."""

    name: str = "minigrid/mt3"
    """The tasks, as `launch.py suites` lists them."""
    backend: Literal["auto", "envpool", "gymnasium"] = "auto"
    """What steps the environments; `auto` takes the fastest one that serves the suite."""


class EnvRunnersConfig(Section):
    """Who collects, and how much at a time."""

    num_env_runners: int = Field(1, ge=0)
    """Ray actors that collect rollouts; 0 collects in this process, without Ray."""
    slots: int = Field(96, ge=1)
    """Environment instances that one runner steps together (B)."""
    unroll_length: int = Field(32, ge=1)
    """Steps of every slot in one rollout (T)."""
    slots_per_task: int | None = Field(None, ge=1)
    """The most slots that one task may take of a runner, which bounds the environments a runner has to keep; null is all of them."""
    env_threads: int = Field(1, ge=1)
    """Threads of one runner that step environments."""
    inference_threads: int = Field(1, ge=1)
    """Threads of one runner that evaluate the policy."""
    rollouts_in_flight: int = Field(2, ge=1, le=2)
    """Rollouts asked of one runner at a time; 2 keeps it busy while the learner works."""
    num_cpus_per_env_runner: float = Field(1, ge=0)
    """Cores that Ray reserves for one runner."""
    num_gpus_per_env_runner: float = Field(0, ge=0)
    """GPUs that Ray reserves for one runner; above 0 the policy is evaluated there."""


FORMER_GATES = {"own": "one_per_task", "equal": "uniform"}


class ModelConfig(Section):
    """The policy's network."""

    RENAMED = {"memory_span": "memory_t_max"}

    experts: int = Field(2, ge=1)
    """Experts of the mixture (K)."""
    orthogonal: bool = True
    """Make the experts' features orthonormal before they are mixed (MOORE); false is a plain mixture."""
    gate: str = "linear"
    """How much of each expert a task takes; one of `mtrl.models.gates.GATES`. `linear` is MOORE's; `one_per_task` shares nothing; `uniform`
    with one expert is a shared trunk."""
    gate_experts: int = Field(2, ge=1)
    """Experts that one task uses under the gates `topk` and `dselect_k` (k)."""
    width: float = Field(1.0, gt=0)
    """Units of the experts' layers, as a multiple of the usual number; the square root of K makes one expert as large as K."""
    frames_encoder: Literal["shallow", "deep"] = "shallow"
    """How experts read stacked frames of a screen: IMPALA's two large convolutions, or its three sections of residual blocks, which learn
    more from the same frames at several times the cost."""
    grid_cells: Literal["numbers", "one_hot"] = "numbers"
    """How a MiniGrid cell is read: as its three numbers (MOORE), or one-hot, where a key and a ball differ by more than 5 and 6 do. Views
    with a mission are always read one-hot."""
    freeze_experts: bool = False
    """Keep the experts as they are, usually those of another run (`train --init-experts RUN`), and train gates and heads alone."""
    normalize_observations: bool = False
    """Bring vectors to mean 0 and deviation 1 for each task, by statistics that the learner keeps and the policy carries."""
    squashed_actions: bool = False
    """Pass continuous actions through tanh instead of clipping them."""
    memory: bool = False
    """An LSTM beside the mixed feature, which also reads what is in sight, the last action and the last reward. Heads read both."""
    memory_size: int = Field(128, ge=1)
    """Units of the LSTM."""
    memory_t_max: int = Field(30, ge=2)
    """The longest time in steps that a unit of the LSTM keeps its state at initialisation: T_max of the chrono initialisation (Tallec and
    Ollivier 2018), which spreads the units' times from one step to this many."""
    popart: bool = False
    """Learn each task's values at unit scale (PopArt), for tasks whose rewards differ in size."""
    trunks: Literal["separate", "shared"] = "separate"
    """Whether actor and critic have experts of their own."""
    heads: Literal["multi", "single"] = "multi"
    """One head per task, or one head that is told the task."""
    head_width: int = Field(128, ge=1)
    """Hidden units of a head."""
    share_repeats: bool = True
    """Evaluate each distinct (task, observation) of a batch once. Exact; grid worlds repeat most of their observations."""

    @pydantic.field_validator("gate", mode="before")
    @classmethod
    def _take_former_gate(cls, gate: Any) -> Any:
        if gate not in FORMER_GATES:
            return gate
        warn_of_former_name(f"model.gate {gate}", FORMER_GATES[gate])
        return FORMER_GATES[gate]


class OptimizerConfig(Section):
    """One optimiser."""

    name: Literal["adam", "rmsprop"] = "adam"
    """The rule."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size at the start."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    decay: bool = False
    """Fall linearly to 0 at `total_frames`."""
    decay_from: float = Field(0.0, ge=0, lt=1)
    """Share of `total_frames` before which the step size stays as it is; with `decay`."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Clip the global norm of the gradient; null leaves it."""


class LearnerConfig(Section):
    """How rollouts become updates."""

    RENAMED = {"queue": "max_queued_batches", "memory_rate": "memory_learning_rate_factor"}

    discount: float = Field(0.99, ge=0, le=1)
    """Discount of later rewards (γ)."""
    rho_bar: float = Field(1.0, gt=0)
    """V-trace's clip of the importance weights, which sets the fixed point."""
    c_bar: float = Field(1.0, gt=0)
    """V-trace's clip of the trace, which sets the speed."""
    lambda_: float = Field(1.0, ge=0, le=1)
    """Decay of the trace."""
    entropy_cost: float = Field(0.01, ge=0)
    """Weight of the entropy bonus."""
    entropy_decay: bool = False
    """Let the bonus fall linearly to 0 at `total_frames`: explore first, be exact at the end."""
    value_cost: float = Field(0.5, ge=0)
    """Weight of the value loss; matters for shared trunks only, since separate ones have separate optimisers under Adam."""
    clip_rewards: float | None = Field(None, gt=0)
    """Learn from rewards clipped to this size, as is usual on Atari; returns and scores count them whole. null leaves them."""
    normalize_advantages: bool = True
    """Scale the advantages of each task to mean 0 and deviation 1 over the batch."""
    advantage_floor: float = Field(0.0, ge=0)
    """The least deviation by which they are divided. Before a task's first reward its advantages are the critic's errors and nothing else,
    which at deviation 1 end its exploration. One reward of 1 in two thousand steps makes a deviation of 0.06."""
    balancing: str = "equal"
    """Weights of the tasks' value losses; `equal` or one of `mtrl.learning.balancers.BALANCERS`."""
    combiner: str = "sum"
    """How the tasks' gradients become one for the trunk, at the mixed feature; `sum` or one of `mtrl.learning.combiners.COMBINERS`. A
    memory comes after that feature, and adds up its tasks' gradients."""
    task_weighting: Literal["tasks", "frames"] = "tasks"
    """`tasks`: each task's mean loss counts the same. `frames`: each frame counts the same."""
    rollouts_per_update: int = Field(1, ge=1)
    """Rollouts that make one batch."""
    max_queued_batches: int = Field(2, ge=0)
    """Batches that may wait for the learner before its runners must. With one rollout in flight 1 keeps the policy one update behind, and
    with 0 runners rest while the learner works and never act with an old policy."""
    surrogate: Literal["vtrace", "clipped"] = "vtrace"
    """The actor's objective: V-trace's policy gradient, or PPO's clipped ratio with the same advantages, which bears more passes."""
    clip: float = Field(0.2, gt=0, lt=1)
    """How far a ratio may move before the clipped objective stops paying for it."""
    epochs: int = Field(1, ge=1)
    """Passes of the actor over a batch."""
    minibatches: int = Field(1, ge=1)
    """Parts that a pass is cut into; the actor's optimiser makes a step for each."""
    minibatch_of: Literal["observations", "steps", "traces"] = "observations"
    """What is drawn into a minibatch. `traces`: all steps of some slots, which a memory needs. `steps`: single steps. `observations`: the
    same, keeping steps that saw the same observation together, which costs least."""
    recompute_targets: bool | None = None
    """Compute V-trace's targets anew, by the current weights, for each minibatch of `traces`, or once for a batch. null is once for the
    clipped ratio, which learns better so: as the policy moves away, weights below 1 cut the traces, and later passes judge actions by less
    and less of what followed them. V-trace's own gradient has no other correction and takes them anew. Where a batch is one minibatch,
    every pass does."""
    actor_updates: int | None = Field(None, ge=1)
    """Steps of the actor's optimiser per batch; null is one for each minibatch of each pass."""
    critic_updates: int = Field(1, ge=1)
    """Steps of a separate critic's optimiser per batch, each over all of it. Its pace decides whether sparse tasks are found at all. A
    shared trunk's critic steps with the actor."""
    popart_rate: float = Field(0.001, gt=0, le=1)
    """How fast PopArt's statistics follow the value targets, per batch."""
    actor: OptimizerConfig = OptimizerConfig()
    """The actor's optimiser; also the only one of a shared trunk."""
    critic: OptimizerConfig = OptimizerConfig()
    memory_learning_rate_factor: float = Field(1.0, gt=0)
    """Learning rate of the LSTM's weights, and of the weights that read it, as a multiple of the optimiser's. An LSTM tells every step of a
    batch from every other, and at the full rate several passes over a batch teach it the batch's noise: less is better then."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 autocast where the hardware has it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner computes; `auto` takes a GPU if there is one."""
    threads: int | None = Field(None, ge=1)
    """Threads of the learner's tensor operations; null takes the cores that runners do not keep busy meanwhile."""


class LearnersConfig(Section):
    """Who learns."""

    num_learners: int = Field(0, ge=0)
    """Ray actors that share every batch, slot by slot, and make the same step; 0 learns in the driver's process."""
    num_cpus_per_learner: float = Field(1, ge=0)
    """Cores that Ray reserves for one of them."""
    num_gpus_per_learner: float = Field(0, ge=0)
    """GPUs that Ray reserves for one of them; above 0 it computes there."""


class CurriculumConfig(Section):
    """How the frames are divided among the tasks."""

    scheduler: str = "uniform"
    """Who decides each task's share of the next unroll; one of `mtrl.curriculum.SCHEDULERS`."""
    options: dict[str, Any] = {}
    """The scheduler's own settings; docs/curriculum.md lists them."""
    evidence: Literal["training", "evaluation"] = "training"
    """Whose episodes schedulers judge tasks by; those of `evaluation.every_frames` are rarer and of one policy each."""
    floor: float = Field(0.1, ge=0, le=1)
    """Every task keeps at least this part of its uniform share."""
    boost_forgotten: float = Field(1.0, ge=1)
    """Factor on the share of a mastered task that has lost more than 0.1 of its success; 1 only reports it."""


class FaultsConfig(Section):
    """What is put up with."""

    budget: int = Field(5, ge=1)
    """Faults of a task's environments without a finished episode between, after which it is left out for a while."""
    retry_seconds: float = Field(300.0, gt=0)
    """For how long at first; twice as long each time it fails again."""
    unroll_seconds: float = Field(300.0, gt=0)
    """A runner that takes longer for an unroll hangs: its stack is written down, and it is started anew."""


class CheckpointsConfig(Section):
    """What is kept to go on from."""

    every_seconds: float = Field(60.0, gt=0)
    """Time between two checkpoints."""
    keep: int = Field(3, ge=1)
    """Newest checkpoints that stay; the best one stays as well."""
    copy_to: str | None = None
    """A folder on any file system that fsspec knows (s3://bucket/run, gs://, sftp://, file://) that gets a copy of each. `--auto-resume` on
    a machine that lacks the run directory goes on from there."""


class EvaluationConfig(Section):
    """Evaluations while training goes on."""

    every_frames: int | None = Field(None, ge=1)
    """Frames from one evaluation to the next; null makes none. With them `best` is the checkpoint that did best in one."""
    episodes: int | None = Field(None, ge=1)
    """Episodes of each task; null takes the protocol's number."""


class ExperimentConfig(Section):
    """One training run."""

    name: str = "minigrid_mt3"
    """What the run is called; a file's own name by default."""
    seed: int = Field(0, ge=0)
    """Of weights, environments and actions."""
    total_frames: int = Field(6_000_000, ge=1)
    """Valid environment steps to train on, over all tasks."""
    report_seconds: float = Field(10.0, gt=0)
    """Time between two lines of metrics."""
    suite: SuiteConfig = SuiteConfig()
    env_runners: EnvRunnersConfig = EnvRunnersConfig()
    model: ModelConfig = ModelConfig()
    learner: LearnerConfig = LearnerConfig()
    learners: LearnersConfig = LearnersConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    faults: FaultsConfig = FaultsConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def wanted_resources(self) -> dict[str, float]:
        """Cores and GPUs that Ray reserves for all runners and learners."""
        runners, learners = self.env_runners, self.learners
        return {
            "CPU": runners.num_env_runners * runners.num_cpus_per_env_runner + learners.num_learners * learners.num_cpus_per_learner,
            "GPU": runners.num_env_runners * runners.num_gpus_per_env_runner + learners.num_learners * learners.num_gpus_per_learner,
        }

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> ExperimentConfig:
        learner = self.learner
        if learner.actor_updates is not None and learner.epochs > 1:
            raise ValueError(f"learner.actor_updates {learner.actor_updates} and learner.epochs {learner.epochs} both say how often")
        if self.model.memory and learner.minibatches > 1 and learner.minibatch_of != "traces":
            raise ValueError(f"learner.minibatch_of is {learner.minibatch_of!r}, but a memory needs whole traces: set it to 'traces'")
        if learner.recompute_targets and learner.minibatches > 1 and learner.minibatch_of != "traces":
            raise ValueError(
                f"learner.recompute_targets needs whole traces, but learner.minibatch_of is {learner.minibatch_of!r}: set it to 'traces'"
            )
        if self.curriculum.evidence == "evaluation" and self.evaluation.every_frames is None:
            raise ValueError("curriculum.evidence is 'evaluation', but evaluation.every_frames is null: there would be none")
        if self.learners.num_learners and not self.env_runners.num_env_runners:
            raise ValueError(
                f"learners.num_learners is {self.learners.num_learners}, but env_runners.num_env_runners 0 runs everything in one process: "
                "learners need Ray, with at least one runner"
            )
        if learner.c_bar > learner.rho_bar:
            raise ValueError(f"learner.c_bar is {learner.c_bar}, above learner.rho_bar {learner.rho_bar}: V-trace needs rho_bar >= c_bar")
        return self
