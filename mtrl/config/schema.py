"""The experiment: what a YAML file in ``configs/`` says, checked.

Every default of the trainer lives here and nowhere else; a YAML file names only what it changes. The models are frozen and refuse fields
they do not know, so a typing error is reported with the field's path and the nearest name instead of being ignored.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar, Literal

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


def auto_or_whole(value: Any, least: int) -> Any:
    """Checks the value of a field that is `auto` or a whole number: one sentence for both, where pydantic would write one for each.

    Raises:
        ValueError: it is neither, or a number below `least`.
    """
    if value != "auto" and not (
        isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer() and value >= least
    ):
        raise ValueError(f"must be 'auto' or a whole number of {least} or more")
    return value


class SuiteConfig(Section):
    """The tasks."""

    name: str = "minigrid/mt3"
    """The tasks, as `launch.py suites` lists them."""
    backend: Literal["auto", "envpool", "gymnasium"] = "auto"
    """The library that steps the environments; `auto` takes the fastest one that has the suite's tasks."""
    env_workers: int | Literal["auto"] = "auto"
    """Processes that step Gymnasium's environments for each runner, or for a run in one process; results do not depend on them. 0: the
    process itself, where a debugger can stop. `auto`: one for each core that it may use if a step of a task takes longer than 0.3 ms, else
    0."""

    @pydantic.field_validator("env_workers", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: Any) -> Any:
        return auto_or_whole(value, 0)


class EnvRunnersConfig(Section):
    """The runners that collect rollouts, and the size of a rollout."""

    num_env_runners: int = Field(1, ge=0)
    """Ray actors that collect rollouts; 0 collects in this process, without Ray."""
    slots: int = Field(96, ge=1, le=1_000_000)
    """Environment instances that one runner steps together (B)."""
    unroll_length: int = Field(32, ge=1, le=1_000_000)
    """Steps of every slot in one rollout (T)."""
    slots_per_task: int | None = Field(None, ge=1)
    """The most slots of a runner that one task may get, which bounds the number of environments in memory; null sets no limit. Where too
    few tasks have a share, since the others fail or the curriculum leaves them out, these get as many as there are."""
    env_threads: int = Field(1, ge=1)
    """Threads of one runner that step environments."""
    inference_threads: int = Field(1, ge=1)
    """Threads of one runner that evaluate the policy."""
    action_noise_correlation: float = Field(0.0, ge=0, lt=1)
    """Correlation of the noise of Gaussian actions from one step to the next (AR(1)); 0 is white noise. Noise of the same size that keeps
    its direction for some steps reaches what steps to and fro do not, such as the far side of a handle."""
    rollouts_in_flight: int = Field(2, ge=1, le=2)
    """Rollouts requested from one runner at a time; 2 keeps the runner busy while the learner works."""
    num_cpus_per_env_runner: float = Field(1, ge=0)
    """Cores that Ray reserves for one runner."""
    num_gpus_per_env_runner: float = Field(0, ge=0)
    """GPUs that Ray reserves for one runner; above 0 the runner evaluates the policy on its GPU."""


FORMER_GATES = {"own": "one_per_task", "equal": "uniform"}


class ModelConfig(Section):
    """The policy's network."""

    RENAMED = {"memory_span": "memory_t_max"}

    experts: int = Field(2, ge=1)
    """Experts of the mixture (K)."""
    orthogonal: bool = True
    """Make the experts' features orthonormal before they are mixed (MOORE); false mixes them as they are."""
    gate: str = "linear"
    """The weights of the experts for each task; one of `mtrl.models.gates.GATES`, or your own as `module:function`. `linear` is MOORE's;
    `one_per_task` shares nothing; `uniform` with one expert is a shared trunk; `safe` is MOORE's with a private branch of each task."""
    private_share: float = Field(0.5, ge=0, le=1)
    """Share of each task's private branch in its mixed feature at the start, under the gate `safe`; the rest is the shared experts'."""
    learn_private_share: bool = True
    """Learn the share of each task's private branch; false keeps it at `private_share`."""
    private_width: float | None = Field(None, gt=0, le=64)
    """Units of the private branches' layers, as a multiple of the usual number; null takes `width`."""
    gate_experts: int = Field(2, ge=1)
    """Experts that one task uses under the gates `topk` and `dselect_k` (k)."""
    width: float = Field(1.0, gt=0, le=64)
    """Units of the experts' layers, as a multiple of the usual number. With a width of √K one expert has as many parameters as K
    experts."""
    encoder: str | None = None
    """The encoder of observations, as `module:Class` for your own; null chooses one by the observations of the tasks."""
    frames_encoder: Literal["shallow", "nature", "deep"] = "shallow"
    """The encoder of screens and other images: IMPALA's two convolutions (`shallow`), the three of DQN (`nature`), or IMPALA's three
    sections of residual blocks (`deep`), which learn more from the same frames at several times the cost."""
    grid_cells: Literal["numbers", "one_hot"] = "numbers"
    """The encoding of a MiniGrid cell: its three numbers (MOORE), or one-hot vectors, which tell a key (5) from a ball (6) more clearly.
    Views with a mission are always one-hot."""
    freeze_experts: bool = False
    """Keep the experts fixed, usually those of another run (`train --init-experts RUN`), and train only gates and heads."""
    normalize_observations: bool = False
    """Normalise vector observations of each task to mean 0 and deviation 1, by running statistics that are part of the policy."""
    observation_least_deviation: float = Field(1e-6, gt=0)
    """The smallest deviation that an observation is divided by, in its own units: a position that has hardly changed so far is not far away
    as soon as it does."""
    observation_memory: int | None = Field(None, ge=1)
    """Frames of a task that the statistics remember: of more, older ones fade. null remembers all alike."""
    squashed_actions: bool = False
    """Pass continuous actions through tanh instead of clipping them."""
    memory: bool = False
    """An LSTM that reads the mixed feature, the raw observation, the last action and the last reward. Heads read the feature and the
    LSTM."""
    memory_size: int = Field(128, ge=1)
    """Units of the LSTM."""
    memory_t_max: int = Field(30, ge=2)
    """The longest time in steps that a unit of the LSTM keeps its state at initialisation: T_max of the chrono initialisation (Tallec and
    Ollivier 2018), which spreads the units' times from one step to this many."""
    popart: bool = False
    """Learn the values of each task at unit scale (PopArt), for tasks with rewards of different sizes."""
    popart_min_scale: float = Field(0.1, gt=0)
    """The least scale of a task's values under PopArt, in units of its rewards. The values of a task that was never paid differ by the
    critic's errors alone, and at their scale its first reward would outweigh all other tasks."""
    trunks: Literal["separate", "shared"] = "separate"
    """Whether actor and critic have separate experts or share them."""
    heads: str = "multi"
    """The heads of actor and critic; one of `mtrl.models.heads.HEADS`, or your own as `module:Class`. `multi` is one head for each task,
    `single` one head that reads the task."""
    conditioning: Literal["one_hot", "embedding", "sentence"] = "one_hot"
    """What gate and heads read of the task. `one_hot`: its number, with rows of their own for each task. `embedding`: a learned vector of
    each task. `sentence`: a vector that is learned from the words of the task's description. With a vector, the policy can be evaluated on
    tasks that it was not trained on."""
    task_vector_size: int = Field(64, ge=1, le=65_536)
    """Numbers in a task's vector (E)."""
    head_width: int = Field(128, ge=1, le=65_536)
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
    """The optimiser's rule."""
    learning_rate: float = Field(1e-3, gt=0, le=1e3)
    """Learning rate at the start."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    decay: bool = False
    """Let the learning rate fall linearly to 0 at `total_frames`."""
    decay_from: float = Field(0.0, ge=0, lt=1)
    """Share of `total_frames` after which the learning rate starts to fall; used with `decay`."""
    max_grad_norm: float | None = Field(None, gt=0)
    """The largest norm of the gradient, to which larger ones are clipped; null clips nothing."""


class NoveltyConfig(Section):
    """A bonus for observations that are new to the learner, for tasks whose reward random actions do not find."""

    weight: float = Field(0.0, ge=0, le=1e6)
    """Reward for a step with a bonus of usual size; 0 gives no bonus. Where an episode's return is at most 1, try 0.01."""
    rule: Literal["noveld", "rnd"] = "noveld"
    """`rnd`: the novelty of the observation after the step (Burda et al. 2018). `noveld`: the novelty that it has more than the one before
    the step (Zhang et al. 2021), which rewards the border of what is known."""
    previous: float = Field(0.5, ge=0, le=1)
    """Part of the previous observation's novelty that `noveld` takes off (α)."""
    episodic: bool = True
    """Give the bonus only for the first visit in an episode, where observations are whole numbers, such as views of a grid."""
    decay: bool = True
    """Let the weight fall linearly to 0 at `total_frames`."""
    learning_rate: float = Field(1e-4, gt=0, le=1e3)
    """Learning rate of the network that predicts what is known."""
    updates: int = Field(4, ge=1)
    """Steps of that network on each batch."""


class SelfImitationConfig(Section):
    """Imitation of traces that returned more than the critic expected, for tasks that succeed seldom (Oh et al. 2018)."""

    weight: float = Field(0.0, ge=0, le=1e6)
    """Weight of the actor's imitation loss; 0 imitates nothing. Try 0.1 first: advantages are normalised, and these are not."""
    value_weight: float = Field(0.01, ge=0, le=1e6)
    """Weight of the critic's loss on the same traces."""
    traces: int = Field(4, ge=1)
    """Traces of each task that an update imitates."""
    capacity: int = Field(32, ge=1, le=100_000)
    """Traces of each task that are kept; they are part of the checkpoint."""


class LearnerConfig(Section):
    """The objective, its targets, and the optimiser steps of an update."""

    RENAMED = {"queue": "max_queued_batches", "memory_rate": "memory_learning_rate_factor"}

    discount: float = Field(0.99, ge=0, le=1)
    """Discount of later rewards (γ)."""
    rho_bar: float = Field(1.0, gt=0, le=1e9)
    """V-trace's clip ρ̄ of the importance weights, which determines the value function that is learned."""
    c_bar: float = Field(1.0, gt=0)
    """V-trace's clip c̄ of the traces, which determines how fast it is learned."""
    lambda_: float = Field(1.0, ge=0, le=1)
    """Decay λ of the traces."""
    entropy_cost: float = Field(0.01, ge=0)
    """Weight of the entropy bonus."""
    entropy_decay: bool = False
    """Let the entropy bonus fall linearly to 0 at `total_frames`."""
    entropy_target: float | None = Field(None, ge=-1e3, le=1e3)
    """Mean entropy in nats that the policy of every task is held near, by a learned weight of the bonus for each task, as SAC learns its
    temperature (Haarnoja et al. 2018). The weights begin at `entropy_cost`; null keeps all of them there. Densities of continuous actions
    can have negative entropies; SAC's usual target is the negative number of their dimensions."""
    entropy_target_rate: float = Field(0.01, gt=0, le=1)
    """Step size of the logarithms of these weights, for each optimiser step of the actor."""
    gate_cost: float = Field(0.0, ge=0)
    """Weight of the gate's own loss, for gates that have one: under `dselect_k`, the entropy of its selectors and the reciprocal of their
    sums, which make it choose sooner."""
    value_cost: float = Field(0.5, ge=0)
    """Weight of the value loss. It matters for shared trunks only: a separate critic has its own optimiser, and Adam ignores the scale."""
    clip_rewards: float | None = Field(None, gt=0, le=1e9)
    """Clip rewards to ± this value for learning, as is usual on Atari; returns and scores are computed from the full rewards. null clips
    nothing."""
    novelty: NoveltyConfig = NoveltyConfig()
    self_imitation: SelfImitationConfig = SelfImitationConfig()
    normalize_advantages: bool = True
    """Normalise the advantages of each task to mean 0 and deviation 1 over the batch."""
    advantage_floor: float = Field(0.0, ge=0)
    """The smallest deviation by which advantages are divided, in units of reward. Before the first reward of a task its advantages are
    only the critic's errors; scaled to deviation 1 they would end the task's exploration. One reward of 1 in two thousand steps gives a
    deviation of 0.06."""
    balancing: str = "equal"
    """Weights of the tasks' value losses; `equal`, one of `mtrl.learning.balancers.BALANCERS`, or your own as `module:Class`."""
    combiner: str = "sum"
    """The rule that combines the tasks' gradients for the trunk; `sum` or one of `mtrl.learning.combiners.COMBINERS`. An LSTM comes after
    the trunk, and sums its tasks' gradients."""
    combiner_space: Literal["feature", "trunk"] = "feature"
    """The gradients that the combiner compares. `feature`: those at the mixed feature, a heuristic that costs nothing. `trunk`: those of
    the trunk's parameters, as in the papers, at the cost of a pass back through the trunk for each task."""
    task_weighting: Literal["tasks", "frames"] | Annotated[float, Field(ge=0, le=1)] = "tasks"
    """`tasks`: the mean losses of all tasks have equal weight. `frames`: all frames have equal weight. A number between 0 (`tasks`) and
    1 (`frames`): a task's mean loss weighs as its share of the frames raised to this power, so that a curriculum weighs losses, too."""
    rollouts_per_update: int | Literal["auto"] = "auto"
    """Rollouts that make one batch. `auto`: a third of the number of runners that send some, so that a policy is about three updates old
    when it is learned from, however many runners there are."""
    max_queued_batches: int = Field(2, ge=0)
    """Batches that may wait for the learner before the runners have to wait. With one rollout in flight, 1 keeps the policy one update
    behind. With 0 a runner whose rollout is in the batch pauses until there are new weights: where a batch has a rollout of every runner,
    no policy is old when it is learned from."""
    surrogate: Literal["vtrace", "clipped"] = "vtrace"
    """The actor's objective: V-trace's policy gradient, or PPO's clipped ratio with the same advantages, which allows more passes over a
    batch."""
    clip: float = Field(0.2, gt=0, lt=1)
    """The clip of PPO's ratio: beyond 1 ± this value the objective has no gradient."""
    dual_clip: float | None = Field(None, gt=1)
    """A ratio beyond which a step with a negative advantage has no gradient either (dual-clip PPO, Ye et al. 2020, who take 3), which
    bounds what old rollouts can do to the policy; null sets no bound."""
    target_kl: float | None = Field(None, gt=0)
    """End the actor's steps on a batch as soon as its divergence from the proximal policy is larger than this, in nats; null makes all
    steps. With a shared trunk the critic's steps end, too."""
    proximal: Literal["start", "average"] = "start"
    """The policy that the clip holds the actor near. `start`: the weights at the start of the update. `average`: an exponential average of
    the weights of earlier updates as well (PPO-EWMA, Hilton et al. 2022), for policies that act with old weights."""
    proximal_decay: float = Field(0.5, ge=0, lt=1)
    """Decay of that average in one update."""
    epochs: int = Field(1, ge=1)
    """Passes of the actor over a batch."""
    minibatches: int = Field(1, ge=1)
    """Minibatches of one pass; the actor's optimiser makes one step for each."""
    minibatch_of: Literal["observations", "steps", "traces"] = "observations"
    """The unit that is drawn into a minibatch. `traces`: all steps of some slots, which an LSTM needs. `steps`: single steps.
    `observations`: single steps, with all steps of one observation in the same minibatch, which costs least."""
    recompute_targets: bool | None = None
    """Compute V-trace's targets anew, by the current weights, for each minibatch of `traces`, or once for a batch. null is once for the
    clipped ratio, which learns better so: as the policy moves away, weights below 1 cut the traces, and later passes judge actions by less
    and less of what followed them. V-trace's own gradient has no other correction and takes them anew. Where a batch is one minibatch,
    every pass does."""
    actor_updates: int | None = Field(None, ge=1)
    """Optimiser steps of the actor per batch; null makes one for each minibatch of each pass."""
    critic_updates: int = Field(1, ge=1)
    """Optimiser steps of a separate critic per batch, each over the whole batch. Their number decides whether tasks with sparse rewards are
    found at all. With a shared trunk the critic is updated together with the actor."""
    popart_rate: float = Field(0.001, gt=0, le=1)
    """Step size of PopArt's running statistics, per batch."""
    actor: OptimizerConfig = OptimizerConfig()
    """The actor's optimiser; with a shared trunk the only one."""
    critic: OptimizerConfig = OptimizerConfig()
    memory_learning_rate_factor: float = Field(1.0, gt=0)
    """Learning rate of the LSTM's weights, and of the weights that read it, as a multiple of the optimiser's. An LSTM tells every step of a
    batch from every other, and at the full rate several passes over a batch teach it the batch's noise: less is better then."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the networks' products; `auto` takes bfloat16 autocast where the hardware has it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the learner; `auto` takes a GPU if there is one."""
    cuda_graphs: bool = True
    """On a GPU, record the operations of an optimiser step once and replay them, several times as fast for small networks. Policies with
    data-dependent operations (memory, missions, several kinds of observations) and rules that compare tasks start them one by one."""
    threads: int | None = Field(None, ge=1)
    """Threads of the learner's tensor operations. null: one in a run in one process, so that it repeats itself whatever else the machine
    does; with runners, as many as cores are free, which is looked at again every two seconds. Runs side by side, as those of a sweep, have
    at most their share of the cores, for environments and inference, too."""

    @property
    def share_power(self) -> float:
        """The power of `task_weighting`: 0 where tasks count the same, 1 where frames do."""
        named = {"tasks": 0.0, "frames": 1.0}
        return named[self.task_weighting] if isinstance(self.task_weighting, str) else self.task_weighting

    @pydantic.field_validator("task_weighting", mode="before")
    @classmethod
    def _named_or_a_power(cls, value: Any) -> Any:
        """One sentence for both, where pydantic would write one for each."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value not in ("tasks", "frames") and not (number and 0 <= value <= 1):
            raise ValueError("has to be tasks, frames or a number between 0 and 1")
        return value

    @pydantic.field_validator("rollouts_per_update", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: Any) -> Any:
        return auto_or_whole(value, 1)


class LearnersConfig(Section):
    """Learners in processes of their own."""

    num_learners: int = Field(0, ge=0)
    """Ray actors that divide every batch among them by slots and make the same optimiser steps; 0 learns in the driver's process."""
    num_cpus_per_learner: float = Field(1, ge=0)
    """Cores that Ray reserves for one learner."""
    num_gpus_per_learner: float = Field(0, ge=0)
    """GPUs that Ray reserves for one learner; above 0 the learner computes on its GPU."""

    @pydantic.model_validator(mode="after")
    def _one_gpu_each(self) -> LearnersConfig:
        if self.num_learners > 1 and 0 < self.num_gpus_per_learner < 1:
            raise ValueError(
                f"num_gpus_per_learner is {self.num_gpus_per_learner:g}, but {self.num_learners} learners exchange gradients, which two on "
                "one GPU cannot: set it to 0 or 1"
            )
        return self


class LevelsConfig(Section):
    """The level of its task that each episode plays."""

    sampler: Literal["uniform", "plr", "plr_robust", "accel", "clutr"] | None = None
    """The rule that chooses among the training levels; null leaves the levels to the environments, which draw them without end. `uniform`:
    all alike. `plr`: those with a high score are replayed, and new ones are trained on, too. `plr_robust`: new levels are only rated.
    `accel`: as `plr_robust`, and replayed levels are edited. `clutr`: a teacher proposes levels in a latent space."""
    training_levels: int = Field(200, ge=1, le=1_000_000)
    """Number of training levels of each task (N): its seeds 0 to N - 1. Evaluations play others."""
    score: Literal["positive_value_loss", "max_monte_carlo", "one_step_td_error", "value_l1"] = "positive_value_loss"
    """The estimate of how much there is to learn on a level."""
    buffer_size: int = Field(4000, ge=1, le=1_000_000)
    """Rated levels of each task that are kept for replay."""
    replay_probability: float = Field(0.5, ge=0, lt=1)
    """Part of the episodes that replay a rated level; the others play one that was not rated. When all training levels are rated, every
    episode replays one."""
    temperature: float = Field(0.3, gt=0)
    """Temperature of the ranks (β): the smaller, the more the levels with the highest scores are replayed."""
    staleness: float = Field(0.3, ge=0, le=1)
    """Part of the replays that goes to levels by the time since their last episode (ρ)."""
    edit_size: float = Field(0.1, gt=0, le=1)
    """Size of an edit as a part of each parameter's range: the standard deviation, or the largest change."""
    edit_noise: Literal["gaussian", "uniform"] = "gaussian"
    """The distribution of an edit of parameters."""
    edit_cells: int = Field(5, ge=1)
    """Cells that an edit of a grid's layout writes anew."""
    latent_size: int = Field(32, ge=1)
    """Numbers of a level in the latent space."""
    autoencoder_updates: int = Field(2000, ge=1)
    """Updates of the autoencoder of levels before the training; a machine does them once for the same levels."""
    teacher_batch: int = Field(64, ge=2, le=1024)
    """Episodes that each update of the teacher learns from."""
    teacher_learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of the teacher."""
    teacher_entropy_cost: float = Field(0.01, ge=0)
    """Weight of the entropy of the teacher's proposals."""

    @property
    def count(self) -> int:
        """The number of training levels; 0 where levels have no end."""
        return 0 if self.sampler is None else self.training_levels


class CurriculumConfig(Section):
    """The curriculum, which divides the frames among the tasks."""

    scheduler: str = "uniform"
    """The rule that decides each task's share of the next unroll; one of `mtrl.curriculum.SCHEDULERS`, or your own as `module:Class`."""
    options: dict[str, Any] = {}
    """Options of the scheduler; docs/curriculum.md lists them."""
    evidence: Literal["training", "evaluation"] = "training"
    """The episodes that schedulers judge tasks by: those of training, or those of the background evaluations, which are rarer."""
    floor: float = Field(0.1, ge=0, le=1)
    """The smallest share of a task, as a part of its uniform share."""
    boost_forgotten: float = Field(1.0, ge=1)
    """Factor on the weight of a mastered task with a success rate more than 0.1 below its best, beyond noise; 1 only reports the task."""
    levels: LevelsConfig = LevelsConfig()


class FaultsConfig(Section):
    """Tolerated faults of environments and runners."""

    budget: int = Field(5, ge=1)
    """Faults of a task's environments without a finished episode in between, after which the task is left out for some time; also the
    deaths of a runner without an unroll in between, after which the run ends."""
    retry_seconds: float = Field(300.0, gt=0)
    """Time for which a failing task is left out at first; it doubles each time the task fails again."""
    unroll_seconds: float = Field(300.0, gt=0)
    """The longest time of an unroll. A runner that takes longer counts as hanging: its stack is logged, and the runner is restarted."""
    update_seconds: float = Field(900.0, gt=0)
    """The longest time of an update by learners in processes of their own, after which they count as lost and are started again."""


class CheckpointsConfig(Section):
    """Checkpoints and their copies."""

    every_seconds: float = Field(60.0, gt=0)
    """Seconds between two checkpoints."""
    keep: int = Field(3, ge=1)
    """Number of newest checkpoints to keep; the best one is kept as well."""
    copy_to: str | None = None
    """A folder on any file system that fsspec knows (s3://bucket/run, gs://, sftp://, file://) for a copy of each checkpoint.
    `--auto-resume` on a machine without the run directory continues from the copy."""


class EvaluationConfig(Section):
    """Background evaluations of a training run."""

    every_frames: int | None = Field(None, ge=1)
    """Frames between two evaluations; null makes none. With evaluations, `best` is the checkpoint with the best evaluation."""
    episodes: int | None = Field(None, ge=1)
    """Episodes of each task in an evaluation; null takes the protocol's number."""


class ExperimentConfig(Section):
    """One training run."""

    name: str = Field("minigrid_mt3", min_length=1, max_length=200)
    """Name of the run; by default the name of the file."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of weights, environments and actions."""
    total_frames: int = Field(6_000_000, ge=1)
    """Valid environment steps to train on, over all tasks."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where metrics go besides `metrics.jsonl`; any of `mtrl.storage.trackers.TRACKERS`, or your own as `module:Class`."""
    report_seconds: float = Field(10.0, gt=0)
    """Seconds between two lines of metrics."""
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

    @pydantic.field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not name.isprintable() or ".." in name.split("/") or name.startswith("/"):
            raise ValueError("must name a folder in runs")
        return name

    @pydantic.field_validator("trackers", mode="before")
    @classmethod
    def _split_trackers(cls, value: Any) -> Any:
        """Several are also written with commas, as on a command line."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

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
        runners, batch = self.env_runners, 1 if learner.rollouts_per_update == "auto" else learner.rollouts_per_update
        parts = runners.slots * batch * (1 if learner.minibatch_of == "traces" else runners.unroll_length)
        if learner.minibatches > parts:
            what = "traces" if learner.minibatch_of == "traces" else "steps"
            raise ValueError(f"learner.minibatches is {learner.minibatches}, but a batch has {parts} {what}")
        self._check_conditioning()
        self._check_entropy_target()
        self._check_self_imitation()
        if self.model.gate == "safe" and learner.combiner != "sum":
            raise ValueError(
                f"learner.combiner {learner.combiner!r} would also scale the gradients of the tasks' private branches under model.gate "
                "'safe': set learner.combiner to 'sum'"
            )
        if self.curriculum.evidence == "evaluation" and self.evaluation.every_frames is None:
            raise ValueError("curriculum.evidence is 'evaluation', but evaluation.every_frames is null: there would be none")
        if self.learners.num_learners and not self.env_runners.num_env_runners:
            raise ValueError(
                f"learners.num_learners is {self.learners.num_learners}, but env_runners.num_env_runners 0 runs everything in one process: "
                "learners need Ray, with at least one runner"
            )
        if self.curriculum.levels.sampler is not None and self.suite.backend == "envpool":
            raise ValueError(
                f"curriculum.levels.sampler is {self.curriculum.levels.sampler!r}, but EnvPool chooses levels itself: set suite.backend to "
                "'auto' or 'gymnasium'"
            )
        if learner.c_bar > learner.rho_bar:
            raise ValueError(f"learner.c_bar is {learner.c_bar}, above learner.rho_bar {learner.rho_bar}: V-trace needs rho_bar >= c_bar")
        return self

    def _check_self_imitation(self) -> None:
        """Whether the learner has all traces."""
        if self.learner.self_imitation.weight > 0 and self.learners.num_learners > 1:
            raise ValueError(
                f"learners.num_learners is {self.learners.num_learners}, but learner.self_imitation keeps its traces in one learner: set "
                "learners.num_learners to 1 or 0"
            )

    def _check_entropy_target(self) -> None:
        """Whether the weights of the entropy bonus can be learned."""
        learner = self.learner
        if learner.entropy_target is None:
            return
        if learner.entropy_cost == 0:
            raise ValueError("learner.entropy_target learns weights that begin at learner.entropy_cost: set it above 0")
        if learner.entropy_decay:
            raise ValueError(
                "learner.entropy_target learns the weights of the entropy bonus, and learner.entropy_decay would lower them: set "
                "learner.entropy_decay to false"
            )

    def _check_conditioning(self) -> None:
        """Whether the parts of the model can serve tasks that have vectors instead of rows of their own."""
        model = self.model
        if model.conditioning == "one_hot":
            return
        if model.popart:
            raise ValueError(
                f"model.popart scales an output of each task's own, and model.conditioning {model.conditioning!r} has one output for all "
                "tasks: set model.popart to false"
            )
        if model.heads == "multi":
            raise ValueError(
                f"model.conditioning {model.conditioning!r} needs a head that reads the task's vector, but model.heads 'multi' has one for "
                "each trained task: set model.heads to 'single'"
            )
