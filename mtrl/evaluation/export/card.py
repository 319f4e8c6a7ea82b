"""The model card of an exported policy."""

from __future__ import annotations

from typing import Any

from envs import TaskSuite
from mtrl.evaluation.export.exported import SPEED_ROWS, Exported
from mtrl.evaluation.results import EvaluationResults
from mtrl.models.distributions import Normal, TanhNormal
from mtrl.models.policy import Actor


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
        kind = "logits of the actions"
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
