"""The model card of an exported policy."""

from __future__ import annotations

from typing import Any

from envs import TaskSuite
from mtrl.evaluation.export.exported import SPEED_ROWS, Exported
from mtrl.evaluation.export.formats import PT2
from mtrl.evaluation.export.portable import PortableActor
from mtrl.evaluation.results import EvaluationResults


def model_card(
    description: dict[str, Any],
    suite: TaskSuite,
    portable: PortableActor,
    task: str | None,
    exported: Exported,
    evaluation: EvaluationResults | None = None,
) -> str:
    """A description of the exported policy, in Markdown."""
    tasks = [task] if task is not None else list(suite.names)
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
    lines += [
        f"- Largest difference between the outputs of `{name}` and the policy's, relative to their scale: {difference:.1e}"
        for name, difference in exported.differences.items()
    ]
    lines += ["", "## Inputs", "", "In this order:", "", *(f"- {text}" for text in _inputs(portable))]
    lines += ["", "## Output", "", f"`parameters` `[N, {portable.form.size}]`: {portable.form.text}."]
    if portable.memory is not None:
        lines += ["", "`new_hidden`, `new_cell`: the memory's `hidden` and `cell` of the next observation."]
    if "actions" in suite.rules:
        lines += ["", f"Before the environment gets them, actions are clipped to -1 … 1 and mapped {suite.rules['actions']}."]
    runtime = "torch" if PT2 in exported.differences else "torch, onnxruntime"
    if suite.part_of(0 if task is None else suite.index(task)).recipe is None:
        use = f"`python play.py` calls the policy with zeros; it needs {runtime} alone."
    else:
        use = f"`python play.py [SEED]` plays one episode, from any folder; it needs {runtime}, gymnasium and the simulator alone."
    lines += ["", "## Use", "", use]
    return "\n".join(lines) + "\n"


def _inputs(portable: PortableActor) -> list[str]:
    found = [f"`{name}`: `[{', '.join(map(str, ('N', *(space.shape or ()))))}]` {space.dtype}" for name, space in portable.arrays.items()]
    if "task_ids" in portable.inputs:
        found.append("`task_ids`: `[N]` int64, the task's place in the list above, from 0")
    if portable.memory is not None:
        size = portable.memory.hidden_size
        found.append(
            f"`hidden`, `cell`: `[N, {size}]` float32, the state after the last observation; `last_action` and `last_reward`: `[N, …]`, "
            "what was done then and what it paid; `start`: `[N]` bool, whether the observation is an episode's first: then the other four "
            "do not count"
        )
    return found


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
