"""A trained policy as a file that torch alone can run: `torch.export`, a model card, and a script that plays with it.

For one task the mixture can be folded: the task's weights become constants, and the heads of the other tasks and the experts without any
effect are left out. With Gram-Schmidt these are the experts after the last one with a weight: each expert is made orthogonal to the earlier
ones, so that an earlier expert changes the later ones even at weight 0. Without Gram-Schmidt these are all experts at weight 0.
"""

from __future__ import annotations

import copy
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from envs import TaskSuite
from mtrl.errors import UserError
from mtrl.evaluation.policy import load_actor
from mtrl.evaluation.results import EvaluationResults, ResultsError, read_results
from mtrl.models.distributions import Either, Factored, MultiCategorical, Normal, TanhNormal
from mtrl.models.encoders import FusedEncoder
from mtrl.models.experts import mix, mix_plain
from mtrl.models.heads import Head, MultiHead, SingleHead
from mtrl.models.policy import Actor
from mtrl.storage.checkpoint import load_policy, resolve_policy
from mtrl.storage.run_directory import RunDirectory
from mtrl.storage.sealed import TEMPORARY

SPEED_ROWS = 64
SPEED_SECONDS = 0.5
MEMORY_INPUTS = ("hidden", "cell", "last_action", "last_reward", "start")

LOADING = (  # lines of a play script
    "from pathlib import Path",
    "",
    "import torch",
    "",
    'policy = torch.export.load(Path(__file__).with_name("policy.pt2")).module()',
)


class Exported(NamedTuple):
    """The result of an export."""

    folder: Path
    experts: int  # experts in the file
    of_experts: int  # experts in the policy
    microseconds: float  # time for a row, in batches of SPEED_ROWS
    microseconds_before: float | None  # the same of the whole policy, if one task was folded


class PortableActor(nn.Module):
    """An actor as a function of tensors alone: `(observation, task_ids, *memory)` or, folded, `(observation, *memory)`.

    Returns logits `[N, actions]`, or means and standard deviations side by side `[N, 2 · size]`; with a memory also its new hidden and cell
    state. The memory's inputs are hidden, cell, last_action, last_reward and start (whether the observation is an episode's first).
    """

    def __init__(self, actor: Actor, observation: str, task: int | None = None):
        super().__init__()
        self._observation, self._task = observation, task
        trunk = actor.trunk
        table = trunk.gate.task_weights().detach().clone()
        self._orthogonal = trunk._mix is mix
        encoder: Any = copy.deepcopy(trunk.encoder)
        if task is not None:
            used = torch.nonzero(table[task]).flatten().tolist()
            kept = list(range(max(used, default=0) + 1)) if self._orthogonal else used or [0]
            encoder.experts = nn.ModuleList(encoder.experts[k] for k in kept)
            table = table[task : task + 1, kept]
        self.vectors: Tensor | None
        vectors = None if trunk.gate.vectors is None else trunk.gate.vectors().detach().clone()
        self.register_buffer("vectors", vectors if vectors is None or task is None else vectors[task : task + 1])
        self.num_experts = len(encoder.experts)
        self.encoder = encoder
        self.weights: Tensor
        self.register_buffer("weights", table)
        self.memory = copy.deepcopy(actor.memory)
        own = not isinstance(actor.head, MultiHead | SingleHead)
        self.head = _OwnHead(actor.head, actor.num_tasks, task) if own else _PortableHead(actor.head, task)
        self._continuous = isinstance(actor.distribution, Normal)

    def forward(self, observation: Tensor, *inputs: Tensor) -> Any:
        """Parameters of the action distribution, see the class."""
        if self._task is None:
            task_ids, *memory = inputs
        else:
            task_ids, memory = torch.zeros_like(observation.flatten(1)[:, 0], dtype=torch.int64), list(inputs)
        # The encoder's statistics have a row for each task, the folded weights have one row.
        own_ids = task_ids if self._task is None else task_ids + self._task
        blend = mix if self._orthogonal else mix_plain
        obs = {self._observation: observation}
        features = torch.tanh(blend(self.encoder(obs, own_ids), self.weights[task_ids]))
        if self.vectors is not None:
            features = torch.cat([features, self.vectors[task_ids]], dim=-1)
        if self.memory is None:
            return self._output(self.head(features, None, task_ids))
        hidden, cell = self.memory.step(self.memory.project(features, obs, own_ids), dict(zip(MEMORY_INPUTS, memory, strict=True)))
        return self._output(self.head(features, hidden, task_ids)), hidden, cell

    def _output(self, parameters: Tensor) -> Tensor:
        if not self._continuous:
            return parameters
        mean, offset = parameters.chunk(2, dim=-1)
        return torch.cat([mean, Normal.log_scale(offset).exp()], dim=-1)


class _PortableHead(nn.Module):
    """A head that gathers the parameters of each row's task, so that rows may come in any order."""

    def __init__(self, head: nn.Module, task: int | None):
        super().__init__()
        rows = slice(None) if task is None else slice(task, task + 1)
        self._per_task = isinstance(head, MultiHead)
        if isinstance(head, MultiHead):
            for name in ("hidden_weight", "hidden_bias", "output_weight", "output_bias", "recall_weight"):
                parameter = getattr(head, name)
                self.register_buffer(name, parameter.detach()[rows].clone() if parameter is not None else None)
        else:
            self.hidden, self.output = copy.deepcopy(head.hidden), copy.deepcopy(head.output)
            bias: Any = head.task_bias
            self.register_buffer("task_bias", bias.detach()[rows].clone() if bias is not None else None)
            self.recall_weight = copy.deepcopy(head.recall_weight)

    def forward(self, features: Tensor, held: Tensor | None, task_ids: Tensor) -> Tensor:
        head: Any = self
        if self._per_task:
            sums = torch.einsum("nhd,nd->nh", head.hidden_weight[task_ids], features) + head.hidden_bias[task_ids]
            if held is not None:
                sums = sums + torch.einsum("nhd,nd->nh", head.recall_weight[task_ids], held)
            return torch.einsum("noh,nh->no", head.output_weight[task_ids], torch.tanh(sums)) + head.output_bias[task_ids]
        sums = head.hidden(features)
        if head.task_bias is not None:
            sums = sums + head.task_bias[task_ids]
        if held is not None:
            sums = sums + torch.nn.functional.linear(held, head.recall_weight)
        return head.output(torch.tanh(sums))


class _OwnHead(nn.Module):
    """A head of the user's own, of which nothing is known but that its rows are sorted by task: it is asked for all rows of every task."""

    def __init__(self, head: Head, num_tasks: int, task: int | None):
        super().__init__()
        self.head = copy.deepcopy(head)
        self._num_tasks = num_tasks
        self._tasks = range(num_tasks) if task is None else [task]

    def forward(self, features: Tensor, held: Tensor | None, task_ids: Tensor) -> Tensor:
        outputs = torch.stack([self._of_task(features, held, task) for task in self._tasks], dim=1)  # [N, tasks, O]
        return outputs.gather(1, task_ids[:, None, None].expand(-1, 1, outputs.shape[2])).squeeze(1)

    def _of_task(self, features: Tensor, held: Tensor | None, task: int) -> Tensor:
        counts = [features.shape[0] if each == task else 0 for each in range(self._num_tasks)]
        sums = self.head.project_features(features, counts)
        return self.head.outputs(sums if held is None else sums + self.head.project_memory(held, counts), counts)


def export_run(directory: RunDirectory, *, checkpoint: str = "latest", task: str | None = None, output: Path | None = None) -> Exported:
    """Writes `policy.pt2`, a model card `README.md` and `play.py` for a run's policy.

    Args:
        directory: the run.
        checkpoint: `latest`, `best` or a number of frames.
        task: the name of the one task to fold the policy for; None keeps all.
        output: a folder that is made; by default `export/STEP` or `export/STEP-TASK` in the run.

    Raises:
        CheckpointError: there is no such checkpoint, or its policy is damaged.
        SuiteError: there is no such task.
        UserError: the folder exists and is not empty, or cannot be written; or the tasks observe more than one array, texts or large
            choices, or act in choices beside numbers.
    """
    step = resolve_policy(directory.checkpoints, directory.policies, checkpoint).name
    _, description = load_policy(directory.policies / step)
    suite, actor = load_actor(directory.policies / step)
    actor.eval()
    index = None if task is None else suite.index(task)
    if len(suite.observation_space) > 1 or isinstance(actor.distribution, Either):
        seen = ", ".join(suite.observation_space)
        raise UserError(f"{suite.name} cannot be exported: an exported policy reads one array, and its tasks observe {seen}")
    if isinstance(actor.distribution, Factored) or isinstance(actor.trunk.encoder, FusedEncoder):
        which = "texts or choices among many values" if isinstance(actor.trunk.encoder, FusedEncoder) else "choices beside numbers"
        raise UserError(f"{suite.name} cannot be exported: an exported policy has no {which}")
    (observation,) = suite.observation_space
    portable = PortableActor(actor, observation, index).eval()
    inputs = example_inputs(suite, actor, index, rows=2)
    any_rows = {0: torch.export.Dim("batch", min=1)}
    # The inputs after the first one are one argument, `*inputs`.
    shapes = (any_rows, tuple(any_rows for _ in inputs[1:])) if inputs[1:] else (any_rows,)
    with torch.no_grad():
        program = torch.export.export(portable, inputs, dynamic_shapes=shapes)
    whole = None if index is None else _microseconds(PortableActor(actor, observation), example_inputs(suite, actor, None, SPEED_ROWS))
    folder = output or directory.path / "export" / (step if task is None else f"{step}-{task}")
    exported = Exported(
        folder,
        portable.num_experts,
        int(actor.trunk.gate.task_weights().shape[1]),
        _microseconds(portable, example_inputs(suite, actor, index, SPEED_ROWS)),
        whole,
    )
    card = model_card(description, suite, actor, task, exported, _evaluation_of(directory, step, description["weights_sha256"]))
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and is not an empty folder; choose another one with -o")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir()
        torch.export.save(program, temporary / "policy.pt2")
        (temporary / "README.md").write_text(card)
        (temporary / "play.py").write_text(play_script(suite, actor, index))
        if folder.exists():
            folder.rmdir()
        shutil.move(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    return exported


def example_inputs(suite: TaskSuite, actor: Actor, task: int | None, rows: int) -> tuple[Tensor, ...]:
    """Inputs of a `PortableActor` of the right shapes and kinds."""
    (space,) = suite.observation_space.values()
    space.seed(0)
    observation = torch.from_numpy(_stack(space, rows))
    task_ids = () if task is not None else (torch.arange(rows) % suite.num_tasks,)
    if actor.memory is None:
        return (observation, *task_ids)
    first = {name: torch.from_numpy(array) for name, array in actor.memory.initial(rows).items()}
    return (observation, *task_ids, *(first[name] for name in MEMORY_INPUTS))


def _evaluation_of(directory: RunDirectory, step: str, weights: str) -> EvaluationResults | None:
    """The evaluation of exactly these weights; None if there is none."""
    try:
        results = read_results(directory.layout.results(step))
    except ResultsError:
        return None
    return results if results.policy.get("weights_sha256") == weights else None


def model_card(
    description: dict[str, Any],
    suite: TaskSuite,
    actor: Actor,
    task: str | None,
    exported: Exported,
    evaluation: EvaluationResults | None = None,
) -> str:
    """A description of the exported policy, in Markdown."""
    (observation,) = suite.observation_space
    space = suite.observation_space[observation]
    tasks = [task] if task is not None else list(suite.names)
    inputs = [f"`observation`: `[N, {', '.join(map(str, space.shape or ()))}]` {space.dtype}"]
    if task is None:
        inputs.append("`task_ids`: `[N]` int64, the task's place in the list above, from 0")
    if actor.memory is not None:
        size = actor.memory.hidden_size
        inputs.append(f"`hidden`, `cell`: `[N, {size}]` float32; `last_action` and `last_reward`: `[N]`; `start`: `[N]` bool")
    if isinstance(actor.distribution, Normal):
        kind = "means and standard deviations side by side; " + (
            "the environment is given tanh of an action" if isinstance(actor.distribution, TanhNormal) else "environments clip actions"
        )
    else:
        kind = "logits of the actions" + (", those of each choice side by side" if isinstance(actor.distribution, MultiCategorical) else "")
    lines = [
        f"# {suite.name}" + (f", {task} alone" if task else ""),
        "",
        f"A policy trained with mtrl-trainer on {suite.name} (experiment `{description['config']}`, commit `{description['commit']}`), "
        f"after {description['frames']:,} environment steps. Its weights have SHA-256 `{description['weights_sha256']}`.",
        "",
        f"- Tasks: {', '.join(tasks)}",
        *_scores(description["training_score"], task, evaluation),
        f"- Experts: {exported.experts}" + (f" of {exported.of_experts}" if exported.experts < exported.of_experts else ""),
        f"- Time on the machine that exported it: {exported.microseconds:.1f} µs for an observation, in batches of {SPEED_ROWS}",
    ]
    if exported.microseconds_before is not None:
        ratio = exported.microseconds_before / exported.microseconds
        lines.append(f"- The whole policy takes {exported.microseconds_before:.1f} µs there: this one is {ratio:.2f} times as fast")
        if exported.experts == exported.of_experts:
            lines.append("- No expert could be left out: each has a weight, or shapes one that has")
    lines += ["", "## Inputs", "", *(f"- {text}" for text in inputs), "", "## Output", "", f"`[N, …]`: {kind}."]
    if "actions" in suite.rules:
        lines += ["", f"Before the environment gets them, actions are clipped to -1 … 1 and mapped {suite.rules['actions']}."]
    lines += [
        "",
        "## Use",
        "",
        "`python play.py [SEED]` plays one episode, from any folder; it needs torch, gymnasium and the simulator alone.",
    ]
    return "\n".join(lines) + "\n"


def play_script(suite: TaskSuite, actor: Actor, task: int | None) -> str:
    """A script that loads the file and plays an episode."""
    name, recipe = suite.names[task or 0], suite.recipe
    lines = [f'"""Plays one episode of {name} with the exported policy."""', ""]
    if recipe is None or actor.memory is not None:
        shapes = ", ".join(f"torch.zeros({list(t[:1].shape)}, dtype={t.dtype})" for t in example_inputs(suite, actor, task, 2))
        return "\n".join([*lines, *LOADING, f"print(policy({shapes}))", ""])
    arguments = [f"torch.from_numpy({recipe.read})[None]"] + ([] if task is not None else ["torch.tensor([0])"])
    lines += ["import sys", f"import {recipe.package}", "import gymnasium", *LOADING, f"env = {recipe.make_env.format(task=name)}"]
    lines += [
        "observation, _ = env.reset(seed=int(sys.argv[1]) if len(sys.argv) > 1 else 0)",
        "total, ended = 0.0, False",
        "while not ended:",
        "    with torch.inference_mode():",
    ]
    lines += [f"        parameters = policy({', '.join(arguments)})[0]"]
    if isinstance(actor.distribution, Normal):
        mean = "parameters[: len(parameters) // 2]"
        lines += [f"    action = {f'{mean}.tanh()' if isinstance(actor.distribution, TanhNormal) else f'{mean}.clamp(-1, 1)'}.numpy()"]
    else:
        lines += ["    action = int(torch.distributions.Categorical(logits=parameters).sample())"]
    lines += ["    observation, reward, terminated, truncated, _ = env.step(action)"]
    lines += ["    total, ended = total + float(reward), terminated or truncated", 'print(f"return {total:.3f}")', ""]
    return "\n".join(lines)


def _scores(training: float | None, task: str | None, evaluation: EvaluationResults | None) -> list[str]:
    """The lines of a model card about scores: of the evaluation if there is one, else of training episodes."""
    if evaluation is None:
        score = "unknown" if training is None else f"{training:.3f}"
        return [f"- Mean score of training episodes when it was saved: {score}. Not evaluated; `python launch.py evaluate RUN` does that."]
    if task is not None and task not in evaluation.tasks:
        return [f"- {task} was not played in the evaluation of this policy"]
    changed = "".join(f", but {name} {value}" for name, value in evaluation.changed.items())
    rules = f"protocol {evaluation.protocol}{changed}, {'sampled' if evaluation.sampled_actions else 'greedy'} actions"
    figure = evaluation.score_mean if task is None else evaluation.tasks[task].score
    lines = [f"- Evaluated score with its 95 % interval: {figure.text(3)}; {rules}"]
    if task is None:
        lines += [f"    - {name}: {found.score.text()}, {found.n} episodes" for name, found in evaluation.tasks.items()]
    return lines


def _stack(space: gymnasium.Space[Any], rows: int) -> Any:
    return np.stack([space.sample() for _ in range(rows)])


@torch.inference_mode()
def _microseconds(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Time per row, of the fastest of several rounds."""
    module.eval()
    module(*inputs)
    best, end = float("inf"), time.perf_counter() + SPEED_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        module(*inputs)
        best = min(best, time.perf_counter() - start)
    return 1e6 * best / len(inputs[0])
