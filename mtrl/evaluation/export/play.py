"""The script that plays an episode with an exported policy, without this project."""

from __future__ import annotations

from envs import PlayRecipe, TaskSuite
from envs.mixed import KIND, MixedSuite
from mtrl.evaluation.export.examples import arguments, make_example
from mtrl.evaluation.export.formats import PT2
from mtrl.evaluation.export.outputs import ActionCode
from mtrl.evaluation.export.portable import MEMORY_INPUTS, PortableActor
from mtrl.models.policy import Actor

TORCH = ('policy = torch.export.load(Path(__file__).with_name("policy.pt2")).module()',)
ONNXRUNTIME = (
    'session = onnxruntime.InferenceSession(Path(__file__).with_name("policy.onnx"))',
    "",
    "",
    "def policy(*inputs):",
    "    names = [each.name for each in session.get_inputs()]",
    "    outputs = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs)})",
    "    return [torch.from_numpy(array) for array in outputs] if len(outputs) > 1 else torch.from_numpy(outputs[0])",
    "",
    "",
)


def play_script(suite: TaskSuite, actor: Actor, task: int | None, file: str = PT2) -> str:
    """A script that loads a file and plays an episode of the task, or of the first one.

    Without a recipe for the task it shows how the policy is called, with zeros.
    """
    played = task or 0
    own = suite.part_of(played)
    portable = PortableActor(actor, suite, task)
    if own.recipe is None:
        lines = [f'"""Calls the exported policy of {suite.name} with zeros."""', ""]
        inputs = arguments(portable, make_example(suite, actor, task, 1))
        zeros = ", ".join(f"torch.zeros({list(each.shape)}, dtype={each.dtype})" for each in inputs)
        return "\n".join([*lines, *_loading(file, []), f"print(policy({zeros}))", ""])
    recipe = own.recipe
    lines = [f'"""Plays one episode of {suite.names[played]} with the exported policy."""', ""]
    lines += ["import sys", *_loading(file, [f"import {recipe.package}", "import gymnasium"]), *recipe.setup.splitlines()]
    greedy = own.protocol is not None and own.protocol.actions == "greedy"
    code = portable.form.code(greedy, suite.action_kinds[played] if isinstance(suite, MixedSuite) else 0)
    call = f"policy({', '.join(_arguments(portable, suite, recipe, played))})"
    lines += [
        f"env = {recipe.make_env.format(task=suite.names[played])}",
        *_episode(call, code, _first_memory(portable, suite, actor, task)),
    ]
    return "\n".join([*lines, ""])


def _loading(file: str, imports: list[str]) -> list[str]:
    torch_alone = file == PT2
    imports = [*imports, *([] if torch_alone else ["import onnxruntime"]), "import torch"]
    return ["from pathlib import Path", "", *imports, "", *(TORCH if torch_alone else ONNXRUNTIME)]


def _episode(call: str, code: ActionCode, memory: list[str]) -> list[str]:
    """The lines from the first observation to the return; `memory` are those that begin the memory, if there is one."""
    evaluated = (
        [f"        parameters, hidden, cell = {call}", "    parameters = parameters[0]"] if memory else [f"        parameters = {call}[0]"]
    )
    lines = [
        "observation, _ = env.reset(seed=int(sys.argv[1]) if len(sys.argv) > 1 else 0)",
        "total, ended = 0.0, False",
        *memory,
        "while not ended:",
        "    with torch.inference_mode():",
        *evaluated,
        f"    action = {code.draw}",
        f"    observation, reward, terminated, truncated, _ = env.step({code.to_environment})",
        "    total, ended = total + float(reward), terminated or truncated",
    ]
    if memory:
        lines += [f"    last_action, last_reward = {code.to_memory}, torch.tensor([float(reward)])", "    start = torch.tensor([False])"]
    return [*lines, 'print(f"return {total:.3f}")']


def _arguments(portable: PortableActor, suite: TaskSuite, recipe: PlayRecipe, task: int) -> list[str]:
    """An expression for each of the policy's inputs. Arrays of other kinds than the task's are zeros."""
    kind = suite.observation_kinds[task] if isinstance(suite, MixedSuite) else None
    found = {name: name for name in MEMORY_INPUTS} | {"task_ids": f"torch.tensor([{task}])"}
    for name, space in portable.arrays.items():
        plain = name.removeprefix(f"{kind}.")
        reading = recipe.read if isinstance(recipe.read, str) else recipe.read.get(plain)
        if name == KIND:
            found[name] = f"torch.tensor([{kind}], dtype=torch.{space.dtype})"
        elif KIND in portable.arrays and plain == name:
            found[name] = f"torch.zeros({[1, *(space.shape or ())]}, dtype=torch.{space.dtype})"
        else:
            found[name] = f"torch.from_numpy({reading})[None]"
    return [found[name] for name in portable.inputs]


def _first_memory(portable: PortableActor, suite: TaskSuite, actor: Actor, task: int | None) -> list[str]:
    """The lines that set the memory before an episode."""
    if actor.memory is None:
        return []
    last = arguments(portable, make_example(suite, actor, task, 1))[portable.inputs.index("last_action")]
    return [
        f"hidden, cell = torch.zeros(2, 1, {actor.memory.hidden_size})",
        f"last_action, last_reward = torch.zeros({list(last.shape)}, dtype={last.dtype}), torch.zeros(1)",
        "start = torch.tensor([True])",
    ]
