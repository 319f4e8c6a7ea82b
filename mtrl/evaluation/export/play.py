"""The script that plays an episode with an exported policy."""

from __future__ import annotations

from envs import TaskSuite
from mtrl.evaluation.export.portable import example_inputs
from mtrl.models.distributions import Normal, TanhNormal
from mtrl.models.policy import Actor

LOADING = (  # lines of a play script
    "from pathlib import Path",
    "",
    "import torch",
    "",
    'policy = torch.export.load(Path(__file__).with_name("policy.pt2")).module()',
)


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
