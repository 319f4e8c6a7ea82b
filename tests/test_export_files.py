"""What an exported file computes, for every experiment of configs/: against the policy itself, one row at a time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from foreign import FORBIDDING, PLAIN, action_spaces, observation_spaces, register
from hypothesis import assume, given, settings
from torch import Tensor, nn

from envs import SuiteError, TaskSuite, make_suite
from envs.mixed import MixedSuite, mix
from envs.suites.babyai import words_of
from mtrl.cli.dispatch import main
from mtrl.config import ExperimentConfig, ModelConfig, load_config, override
from mtrl.errors import UserError
from mtrl.evaluation.export import PortableActor, export_run, formats, mixture
from mtrl.evaluation.export.checking import checked
from mtrl.evaluation.export.encoders import portable_encoder
from mtrl.evaluation.export.examples import Example, arguments, make_example
from mtrl.evaluation.export.formats import Policy
from mtrl.evaluation.export.outputs import portable_form
from mtrl.models import experts
from mtrl.models.distributions import FORBIDDEN, Categorical, Either, Factored, MultiCategorical, Normal, make_distribution
from mtrl.models.encoders import ENCODERS, EncoderKind, make_encoder
from mtrl.models.normalization import Scale
from mtrl.models.policy import Actor, build_policy
from mtrl.models.rows import Rows
from mtrl.storage.checkpoint import save_policy
from mtrl.storage.run_directory import RunDirectory

pytest.importorskip("onnxruntime")

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SMALL = {"width": 0.25, "experts": 3, "head_width": 16, "memory_size": 8}
EACH_PART = [
    pytest.param("minigrid/Empty-5x5,DistShift1", {"memory": True, "grid_cells": "one_hot", "gate": "topk"}, marks=pytest.mark.slow),
    pytest.param(
        "metaworld/reach,push", {"normalize_observations": True, "heads": "single", "squashed_actions": True, "orthogonal": False}
    ),
    pytest.param("minigrid/Empty-5x5,DistShift1", {"gate": "safe"}, marks=pytest.mark.slow),
    pytest.param("minigrid/Empty-5x5+babyai/GoToObj+metaworld/reach,push", {"memory": True, "normalize_observations": True}),
]


def make(name: str) -> TaskSuite:
    if "atari/" in name and importlib.util.find_spec("envpool_assets") is None and importlib.util.find_spec("ale_py") is None:
        pytest.skip("Atari's games are not installed")
    try:
        return make_suite(name)
    except SuiteError as error:
        pytest.skip(str(error))


def with_short_missions(suite: TaskSuite) -> TaskSuite:
    """Sentences of 8 words instead of 72, each of which takes an exporter its time."""
    if isinstance(suite, MixedSuite):
        return mix(suite.name, [with_short_missions(part) for part in suite.parts])
    if "mission" not in suite.observation_space.spaces:
        return suite
    high = int(suite.observation_space["mission"].high.max())
    mission = gymnasium.spaces.Box(0, high, (8,), np.uint8)
    return replace(suite, observation_space=gymnasium.spaces.Dict({**suite.observation_space.spaces, "mission": mission}))


def random_actor(suite: TaskSuite, model: ModelConfig) -> Actor:
    """With outputs of unit scale, no parameter at 0, and statistics of observations in the middle of a training."""
    actor = build_policy(model, suite, seed=1).actor.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in actor.named_parameters():
            if name.endswith("output_weight") or name.endswith("output.weight"):
                parameter *= 100
            elif name.endswith("bias") or name.endswith("recall_weight"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for module in actor.modules():
            if isinstance(module, Scale):
                module.count += 50
                module.mean += torch.randn(module.mean.shape, generator=generator)
                module.square += 50 * torch.rand(module.square.shape, generator=generator)
    return actor


def numbers(distribution: Any, row: Tensor) -> list[float]:
    """What a file says of one row of a policy's own parameters."""
    if isinstance(distribution, Categorical | MultiCategorical):
        return row.tolist()
    if isinstance(distribution, Normal):
        return [*distribution.mode(row).tolist(), *distribution._split(row)[1].exp().tolist()]
    if isinstance(distribution, Factored):
        own = row.split([part.num_parameters for part in distribution.parts])
        return [number for part, parameters in zip(distribution.parts, own, strict=True) for number in numbers(part, parameters)]
    kind = distribution.kinds[int(row[0])]
    return [float(row[0]), *numbers(kind, row[1 : 1 + kind.num_parameters])]


@torch.inference_mode()
def one_by_one(actor: Actor, example: Example) -> list[list[Tensor]]:
    """The policy's outputs for each row alone."""
    found: list[list[Tensor]] = []
    for i, task in enumerate(example.task_ids.tolist()):
        counts = tuple(int(task == each) for each in range(actor.num_tasks))
        own: Any = actor(Rows({name: array[i : i + 1] for name, array in example.obs.items()}, example.task_ids[i : i + 1], counts))
        state: list[Tensor] = []
        if actor.memory is not None:
            step = actor.remember(own, {name: array[i : i + 1] for name, array in example.memory.items()}, counts)
            own, state = step.parameters, [step.hidden[0], step.cell[0]]
        found.append([torch.tensor(numbers(actor.distribution, own[0])), *state])
    return found


def largest(outputs: Tensor) -> float:
    """Of the numbers of unit scale: where nearly all are forbidden, one that is left may be as small as rounding."""
    return max(0.1, float(outputs.masked_fill(outputs == FORBIDDEN, 0).abs().max()))


@torch.inference_mode()
def agree(policy: Policy, suite: TaskSuite, actor: Actor, task: int | None, name: str) -> None:
    """Compares what an exported policy gives with what the actor gives, for some batches."""
    portable = PortableActor(actor, suite, task)
    for rows in (1, 7):
        example = make_example(suite, actor, task, rows, seed=10 + rows)
        found = policy(*arguments(portable, example))
        expected = one_by_one(actor, example)
        scales = [max(largest(part) for part in parts) for parts in zip(*expected, strict=True)]
        for i, own in enumerate(expected):
            if task is not None and isinstance(actor.distribution, Either):
                own = [own[0][1:], *own[1:]]  # without the kind's number
            for outputs, wanted, scale in zip(found, own, scales, strict=True):
                filled = nn.functional.pad(wanted, (0, outputs.shape[1] - len(wanted)))
                torch.testing.assert_close(outputs[i], filled, rtol=0, atol=1e-5 * scale, msg=lambda m: f"{name}: {m}")


def compare(suite: TaskSuite, actor: Actor, task: int | None, folder: Path) -> None:
    """Writes both files, reads them again and compares them with the policy."""
    folder.mkdir()
    portable = PortableActor(actor, suite, task).eval()
    program = formats.trace(portable, arguments(portable, make_example(suite, actor, task, 2)))
    for name in formats.files_of("both"):
        formats.write(program, portable, folder / name)
        file = formats.read(folder / name)
        agree(file, suite, actor, task, name)


class Sundry(gymnasium.Env[Any, Any]):
    """Observes an image, numbers, a text and a choice among many; acts in two choices."""

    observation_space = gymnasium.spaces.Dict(
        {
            "camera": gymnasium.spaces.Box(0, 255, (40, 40, 3), np.uint8),
            "pose": gymnasium.spaces.Box(-1, 1, (3,), np.float32),
            "order": gymnasium.spaces.Text(12),
            "room": gymnasium.spaces.Discrete(1000),
        }
    )
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


class Hybrid(Sundry):
    """Acts in a choice and two numbers."""

    observation_space = gymnasium.spaces.Dict({"pose": gymnasium.spaces.Box(-1, 1, (3,), np.float32)})
    action_space = gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,), np.float32)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_several_arrays_and_several_choices(tmp_path: Path) -> None:
    gymnasium.register("ExportSundry-v0", Sundry)
    suite = make_suite("gym/ExportSundry-v0")
    assert len(suite.observation_space) == 4
    compare(suite, random_actor(suite, ModelConfig(**SMALL)), None, tmp_path / "files")


def as_tuples(portable: PortableActor) -> Policy:
    """The outputs of an actor without a memory in a tuple, as a file gives them."""

    def policy(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = portable(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return policy


@pytest.mark.parametrize("name", ["toy/three", "minigrid/Empty-5x5+toy/corridor+metaworld/reach"])
def test_private_branches_are_part_of_a_function_of_tensors(name: str) -> None:
    suite = make(name)
    actor = random_actor(suite, ModelConfig(**SMALL | {"gate": "safe", "memory": True}))
    for task in (None, 1):
        agree(as_tuples(PortableActor(actor, suite, task).eval()), suite, actor, task, f"task {task}")


def drawn(observation_space: Any, action_space: Any) -> Any:
    """A suite of one task with these spaces; None where they are refused in a sentence."""
    try:
        return make_suite(f"gym/{register(PLAIN._replace(observation_space=observation_space, action_space=action_space))}")
    except SuiteError as error:
        assert "\n" not in str(error) and ("wrap it in" in str(error) or "only one value" in str(error))
        return None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(observation_spaces(), action_spaces())
def test_policies_of_any_spaces_are_functions_of_tensors(observation_space: Any, action_space: Any) -> None:
    suite = drawn(observation_space, action_space)
    assume(suite is not None)  # hypothesis fails where hardly any is
    actor = random_actor(suite, ModelConfig(**SMALL))
    agree(as_tuples(PortableActor(actor, suite).eval()), suite, actor, None, "the function")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=25, deadline=None, derandomize=True)
@given(observation_spaces(), action_spaces())
def test_policies_of_any_spaces_are_written_to_both_files(observation_space: Any, action_space: Any) -> None:
    suite = drawn(observation_space, action_space)
    assume(suite is not None)
    with tempfile.TemporaryDirectory() as folder:
        compare(suite, random_actor(suite, ModelConfig(**SMALL)), None, Path(folder) / "files")


@pytest.fixture(scope="module")
def kinds_with_masks() -> TaskSuite:
    """Two tasks that forbid actions, and one of choices and numbers that does not."""
    gymnasium.register("ExportHybrid-v0", Hybrid)
    return make_suite(f"gym/{','.join(FORBIDDING[1:3])},ExportHybrid-v0")


@pytest.mark.parametrize("memory", [False, True])
def test_forbidden_actions_are_forbidden_in_a_function_of_tensors(kinds_with_masks: TaskSuite, memory: bool) -> None:
    actor = random_actor(kinds_with_masks, ModelConfig(**SMALL | {"memory": memory}))
    assert any(FORBIDDEN in outputs[0] for outputs in one_by_one(actor, make_example(kinds_with_masks, actor, None, 9)))
    for task in (None, 1, 2):
        agree(as_tuples(PortableActor(actor, kinds_with_masks, task).eval()), kinds_with_masks, actor, task, f"task {task}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("memory", [False, True])
def test_forbidden_actions_are_forbidden_in_both_files(kinds_with_masks: TaskSuite, memory: bool, tmp_path: Path) -> None:
    actor = random_actor(kinds_with_masks, ModelConfig(**SMALL | {"memory": memory}))
    for task in (None, 1, 2):
        compare(kinds_with_masks, actor, task, tmp_path / f"task {task}")


def test_actions_forbidden_in_every_task_are_forbidden_in_both_files(tmp_path: Path) -> None:
    suite = make_suite(f"gym/{FORBIDDING[0]}")
    compare(suite, random_actor(suite, ModelConfig(**SMALL)), None, tmp_path / "files")


@pytest.mark.parametrize(("name", "changes"), EACH_PART)
def test_both_files_give_what_the_policy_gives(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    suite = with_short_missions(make(name))
    actor = random_actor(suite, ModelConfig(**SMALL | changes))
    compare(suite, actor, None, tmp_path / "whole")
    compare(suite, actor, 1, tmp_path / "folded")


def experiments() -> dict[str, str]:
    """The experiments with different models or tasks, and the names of those that are alike."""
    groups: dict[str, list[str]] = {}
    for name in CONFIGS:
        config = load_config(FOLDER / f"{name}.yaml")
        groups.setdefault(json.dumps([config.suite.name, config.model.model_dump()]), []).append(name)
    return {names[0]: "+".join(names) for names in groups.values()}


@pytest.mark.slow
@pytest.mark.parametrize("name", experiments(), ids=experiments().values())
def test_every_experiment_can_be_exported(name: str, tmp_path: Path) -> None:
    config = load_config(FOLDER / f"{name}.yaml")
    suite = make(config.suite.name)
    actor = random_actor(suite, config.model)
    compare(suite, actor, None, tmp_path / "whole")
    for task in {0, suite.num_tasks - 1}:
        compare(suite, actor, task, tmp_path / f"folded-{task}")


@pytest.mark.parametrize("num_experts", [1, 2, 4, 12])
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_gram_schmidt_without_linear_algebra(num_experts: int, length: float) -> None:
    """The same as by LAPACK's factorisation, and as by Gram-Schmidt in float64, which has no ε."""
    generator = torch.Generator().manual_seed(0)
    features = length * torch.randn(5, num_experts, 64, generator=generator)
    weights = torch.randn(5, num_experts, generator=generator)
    found = mixture.mix(features, weights)
    torch.testing.assert_close(found, experts.mix(features, weights), rtol=1e-5, atol=1e-6)
    for row, matrix, own in zip(found.numpy(), features.double().numpy(), weights.numpy(), strict=True):
        basis: list[np.ndarray] = []
        for expert in matrix:
            rest = expert - sum((expert @ other) * other for other in basis)
            basis.append(rest / np.linalg.norm(rest))
        np.testing.assert_allclose(row, own @ np.array(basis), atol=1e-4)


def test_experts_that_agree_and_experts_that_are_zero_stay_finite() -> None:
    features = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    features[0, 1] = features[0, 0]
    features[1, 1] = 0
    found = mixture.mix(features, torch.ones(2, 3))
    assert found.isfinite().all()
    torch.testing.assert_close(found[1], experts.mix(features, torch.ones(2, 3))[1], rtol=1e-4, atol=1e-5)


def test_sentences_are_read_to_their_last_word() -> None:
    suite = make("babyai/GoToObj")
    encoder = make_encoder(suite.observation_space, ModelConfig(experts=2, width=0.25), 1).eval()
    length = suite.observation_space["mission"].shape[0]
    obs = {"image": torch.zeros(4, 7, 7, 3, dtype=torch.uint8), "mission": torch.zeros(4, length, dtype=torch.uint8)}
    for row, words in enumerate((0, 1, 5, length)):
        obs["mission"][row, :words] = torch.arange(words) % 20 + 1
    with torch.inference_mode():
        found = portable_encoder(encoder)(obs, torch.zeros(4, dtype=torch.int64))
        for row in range(4):
            alone = {name: array[row : row + 1] for name, array in obs.items()}
            torch.testing.assert_close(found[row], encoder(alone, torch.zeros(1, dtype=torch.int64))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("squashed", [False, True])
def test_a_memory_is_given_the_policys_encoding_of_actions(squashed: bool) -> None:
    suite = make("minigrid/Empty-5x5+metaworld/reach")
    distribution = make_distribution(suite.action_space, squashed=squashed)
    actions = torch.from_numpy(np.stack([suite.action_space.sample() for _ in range(40)]))
    whole = portable_form(distribution)
    torch.testing.assert_close(whole.encode(actions), distribution.encode(actions))
    for kind in (0, 1):
        own = actions[actions[:, 0] == kind]
        folded = portable_form(distribution, kind)
        torch.testing.assert_close(folded.encode(folded.narrow(own)), distribution.encode(own))


def saved(path: Path, suite: TaskSuite, changes: dict[str, Any]) -> RunDirectory:
    """A run's folder with a policy that nothing was learned in."""
    model = {f"model.{name}": value for name, value in (SMALL | changes).items()}
    config = override(ExperimentConfig(), {"suite.name": suite.name} | model)
    path.mkdir()
    run = RunDirectory(path, config)
    run.write_config()
    policy = build_policy(config.model, suite, seed=0)
    description = {"suite": suite.name, "model": config.model.model_dump(), "config": "none", "commit": "none", "frames": 0}
    weights = {name: tensor.numpy() for name, tensor in policy.state_dict().items()}
    save_policy(run.policies, 0, weights, description | {"training_score": None, "rules": dict(suite.rules)}, keep=[])
    return run


def play(folder: Path) -> float:
    """The return that the script prints."""
    command = [sys.executable, "-I", str(folder / "play.py"), "3"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "mtrl" not in (folder / "play.py").read_text()
    return float(done.stdout.split("return ")[-1])


def test_a_script_has_the_numbers_of_the_missions_words() -> None:
    suite = make("babyai/GoToObj,PutNextLocal")
    assert suite.recipe is not None
    names: dict[str, Any] = {}
    exec(suite.recipe.setup, names)
    for mission in ("go to the red ball", "put the blue key next to a box, then open a door on your left"):
        np.testing.assert_array_equal(names["numbers_of"](mission), words_of(mission))
        assert names["numbers_of"](mission).dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["onnx", "pt2"])
def test_missions_are_played_from_either_file(chosen: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", make("babyai/GoToRedBallNoDists,GoToObj"), {"memory": True})
    folder = export_run(run, format=chosen).folder
    assert {path.name for path in folder.iterdir()} == {f"policy.{chosen}", "README.md", "play.py"}
    play(folder)


@pytest.mark.slow
def test_a_game_is_played(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    play(export_run(saved(tmp_path / "run", make("atari/Boxing"), {}), format="pt2").folder)


def test_a_robot_arm_is_played_from_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a mixed policy with a memory that is folded for the arm: it reads the arm's vector and gives the arm's numbers alone."""
    run = saved(tmp_path / "run", make("minigrid/Empty-5x5+metaworld/reach"), {"memory": True})
    folder = tmp_path / "out"
    assert main(["export", str(run.path), "--format", "onnx", "--task", "reach", "-o", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"policy.onnx", "README.md", "play.py"}
    assert "largest difference from the policy, relative to its outputs: policy.onnx by " in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert "`policy.onnx` and the policy's, relative to their scale: " in card
    assert "4 means and 4 standard deviations" in card and "- `vector`: `[N, 39]` float32" in card and "`kind`" not in card
    play(folder)


@pytest.mark.parametrize(
    "name",
    [
        "jumanji/BinPack",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("classic/Pendulum-v1", "dmc/reacher-easy", "box2d/CarRacing")),
    ],
)
def test_pools_of_one_environment_are_played(name: str, tmp_path: Path) -> None:
    suite = make(name)
    played = play(export_run(saved(tmp_path / "run", suite, {}), format="pt2").folder)
    assert np.isfinite(played)


@pytest.mark.slow
def test_a_mixed_policy_plays_its_first_task(tmp_path: Path) -> None:
    folder = export_run(saved(tmp_path / "run", make("minigrid/Empty-5x5+metaworld/reach"), {"memory": True})).folder
    card = (folder / "README.md").read_text()
    assert "`kind`: `[N]` uint8" in card and "`1.vector`: `[N, 39]` float32" in card
    play(folder)


class Peeking(nn.Module):
    """An encoder with operations that depend on the observations, which no entry says how to write."""

    feature_size = 8

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(model.experts))

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        return torch.stack([expert(obs["vector"] if obs["vector"].sum() > 0 else -obs["vector"]) for expert in self.experts], dim=1)


def test_unknown_parts_are_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "peeking", EncoderKind(lambda space: False, Peeking))
    suite = make_suite("toy/three")
    run = saved(tmp_path / "run", suite, {"encoder": "peeking"})
    with pytest.raises(UserError, match="its encoder Peeking"):
        export_run(run)
    assert not any((tmp_path / "run" / "export").iterdir())

    class Sly(Categorical):
        """A distribution of one's own."""

    actor = build_policy(ModelConfig(), suite, seed=0).actor
    actor.distribution = Sly(3)
    with pytest.raises(UserError, match="no form for a distribution Sly"):
        PortableActor(actor, suite)


@pytest.mark.parametrize("difference", [1.1e-5, float("nan")])
def test_a_file_that_differs_is_refused(difference: float) -> None:
    with pytest.raises(UserError, match=r"policy.onnx would differ from it by .*, which is more than 1e-05"):
        checked("policy.onnx", difference)


def test_without_onnx_there_is_torchs_file_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", make_suite("toy/three"), {})
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else present(name, *rest))
    assert main(["export", str(run.path), "-o", str(tmp_path / "out")]) == 0
    assert "no ONNX file, which needs packages that are not installed: pip install -e '.[onnx]'" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"policy.pt2", "README.md", "play.py"}
    assert main(["export", str(run.path), "--format", "onnx"]) == 2
    assert "--format onnx needs packages that are not installed" in capsys.readouterr().err
