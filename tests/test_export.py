"""Exported policies: the same numbers as the policy's own, in a process that has torch, gymnasium and the simulator alone.

`test_export_files.py` has what each kind of policy computes in a file.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from envs import TaskSuite
from mtrl.cli.dispatch import main
from mtrl.evaluation.export import Exported, PortableActor, export_run
from mtrl.evaluation.export.examples import arguments, make_example
from mtrl.evaluation.export.heads import OwnHead, PortableHead
from mtrl.evaluation.policy import load_actor
from mtrl.evaluation.results import read_results
from mtrl.models.heads import MultiHead, SingleHead
from mtrl.models.policy import Actor
from mtrl.models.rows import make_rows
from mtrl.storage.checkpoint import CheckpointError
from mtrl.storage.run_directory import RunDirectory

SUITE = ["--suite.name", "minigrid/Empty-5x5,DistShift1", "--total-frames", "600", "--num-env-runners", "0", "--env-runners.slots", "8"]


def train(path: Path, *options: str, config: str = "minigrid_mt3", suite: list[str] = SUITE) -> RunDirectory:
    assert main(["train", config, *suite, *options, "--run-dir", str(path)]) == 0
    return RunDirectory.open(path)


def policy_of(run: RunDirectory) -> Path:
    return next(run.policies.glob("[0-9]*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(tmp_path_factory.mktemp("runs") / "run", "--model.experts", "3")


@pytest.fixture(scope="module")
def whole(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_run(run, output=tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture(scope="module")
def folded(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_run(run, task="DistShift1", output=tmp_path_factory.mktemp("folded") / "out", format="pt2")


def inputs_of(suite: TaskSuite, actor: Actor, task: int | None, rows: int) -> tuple[torch.Tensor, ...]:
    return arguments(PortableActor(actor, suite, task), make_example(suite, actor, task, rows))


def expected(run: RunDirectory, observation: torch.Tensor, task_ids: torch.Tensor) -> torch.Tensor:
    """The trained policy's own outputs, in the given order of rows."""
    suite, actor = load_actor(policy_of(run))
    order = task_ids.argsort(stable=True)
    rows = make_rows({"image": observation[order].numpy()}, task_ids[order].numpy(), suite.num_tasks, torch.device("cpu"))
    outputs = torch.empty(len(order), actor.distribution.num_parameters)
    with torch.inference_mode():
        outputs[order] = actor.eval()(rows)
    return outputs


def test_the_file_gives_what_the_policy_gives(run: RunDirectory, whole: Exported) -> None:
    loaded = torch.export.load(whole.folder / "policy.pt2").module()
    suite, actor = load_actor(policy_of(run))
    for rows in (1, 2, 7, 64):  # any number of rows, in any order of tasks
        observation, task_ids = inputs_of(suite, actor, None, rows)
        torch.testing.assert_close(loaded(observation, task_ids), expected(run, observation, task_ids), rtol=1e-4, atol=1e-5)


def test_folded_for_a_task_it_gives_the_same(run: RunDirectory, folded: Exported) -> None:
    loaded = torch.export.load(folded.folder / "policy.pt2").module()
    suite, actor = load_actor(policy_of(run))
    (observation,) = inputs_of(suite, actor, 1, 9)
    torch.testing.assert_close(loaded(observation), expected(run, observation, torch.ones(9, dtype=torch.int64)), rtol=1e-4, atol=1e-5)
    assert folded.microseconds_before is not None and "times as fast" in (folded.folder / "README.md").read_text()
    assert (folded.folder / "policy.pt2").stat().st_size < policy_of(run).joinpath("weights.safetensors").stat().st_size


@pytest.mark.parametrize(("orthogonal", "kept"), [(True, 2), (False, 1)])
def test_experts_that_contribute_nothing_are_left_out(tmp_path: Path, orthogonal: bool, kept: int) -> None:
    run = train(tmp_path / "run", "--model.experts", "3", "--model.orthogonal", str(orthogonal).lower())
    suite, actor = load_actor(policy_of(run))
    with torch.no_grad():
        actor.trunk.gate.weight[1] = torch.tensor([0.0, 0.7, 0.0])  # type: ignore[union-attr, index]
    folded_actor, whole_actor = PortableActor(actor, suite, 1).eval(), PortableActor(actor, suite).eval()
    assert folded_actor.num_experts == kept
    (observation,) = inputs_of(suite, actor, 1, 5)
    with torch.inference_mode():
        torch.testing.assert_close(folded_actor(observation), whole_actor(observation, torch.ones(5, dtype=torch.int64)))


@pytest.mark.parametrize("conditioning", ["one_hot", "sentence"])
def test_memory_and_a_single_head(tmp_path: Path, conditioning: str) -> None:
    options = [
        "--model.memory",
        "true",
        "--model.heads",
        "single",
        "--learner.minibatch-of",
        "traces",
        "--model.conditioning",
        conditioning,
    ]
    run = train(tmp_path / "run", *options)
    done = export_run(run, output=tmp_path / "out")
    loaded = torch.export.load(done.folder / "policy.pt2").module()
    suite, actor = load_actor(policy_of(run))
    observation, task_ids, *memory = inputs_of(suite, actor, None, 4)
    task_ids = task_ids.sort().values
    parameters, hidden, cell = loaded(observation, task_ids, *memory)
    counts = tuple(task_ids.bincount().tolist())
    rows = make_rows({"image": observation.numpy()}, task_ids.numpy(), suite.num_tasks, torch.device("cpu"))
    names = ("hidden", "cell", "last_action", "last_reward", "start")
    with torch.inference_mode():
        own = actor.eval().remember(actor(rows), dict(zip(names, memory, strict=True)), counts)
    for ours, theirs in ((parameters, own.parameters), (hidden, own.hidden), (cell, own.cell)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [MultiHead, SingleHead])
def test_a_head_in_the_file_reads_feature_and_memory(kind: type) -> None:
    torch.manual_seed(0)
    head, counts = kind(2, 5, 7, 3, output_gain=1.0, memory=4), (2, 4)
    torch.nn.init.normal_(head.recall_weight)  # which begins at 0
    features, held, tasks = torch.randn(6, 5), torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 1, 1])
    expected = head.outputs(head.project_features(features, counts) + head.project_memory(held, counts), counts)
    torch.testing.assert_close(PortableHead(head, None)(features, held, tasks), expected)
    folded = PortableHead(head, 1)(features[2:], held[2:], None)
    torch.testing.assert_close(folded, expected[2:])
    # As any head that the program does not know, with rows in any order.
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    torch.testing.assert_close(OwnHead(head, 2, None)(features[order], held[order], tasks[order]), expected[order])
    torch.testing.assert_close(OwnHead(head, 2, 1)(features[2:], held[2:], None), expected[2:])


@pytest.mark.parametrize("which", ["whole", "folded"])
def test_the_script_plays_without_this_project(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which).folder
    script = (folder / "play.py").read_text()
    assert script.count("\n") <= 20 and "mtrl" not in script
    done = subprocess.run([sys.executable, "-I", str(folder / "play.py"), "3"], cwd="/", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("return "), done.stderr


@pytest.mark.slow  # the suite plays one from ONNX
def test_a_robot_arms_policy_plays(tmp_path: Path) -> None:
    suite = ["--suite.name", "metaworld/reach", "--env-runners.slots", "2", "--total-frames", "100", "--num-env-runners", "0"]
    folder = export_run(train(tmp_path / "run", config="metaworld_mt10", suite=suite), format="pt2").folder
    assert folder.parent == tmp_path / "run" / "export"
    done = subprocess.run([sys.executable, "-I", "play.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("return "), done.stderr


def test_faults_are_one_sentence(run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for options, said in (
        ([], "export needs the directory of a run"),
        ([str(run.path), "--task", "DistShift2"], "did you mean DistShift1?"),
        ([str(run.path), "-o", str(tmp_path / "full")], "is not an empty folder"),
        ([str(run.path), "--checkpoint", "7"], "has no checkpoint '7'"),
    ):
        assert main(["export", *options]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        export_run(run, checkpoint="none")


def test_the_card_quotes_the_evaluation_of_its_own_weights(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    assert "Not evaluated" in (export_run(run, output=tmp_path / "before", format="pt2").folder / "README.md").read_text()
    assert main(["evaluate", str(run.path), "--episodes", "3"]) == 0
    [file] = run.layout.all_results()
    results = read_results(file)
    card = (export_run(run, output=tmp_path / "after", format="pt2").folder / "README.md").read_text()
    assert results.score_mean.text(3) in card and "but episodes 3" in card and results.tasks["DistShift1"].score.text() in card
    folded = (export_run(run, task="DistShift1", output=tmp_path / "folded", format="pt2").folder / "README.md").read_text()
    assert results.tasks["DistShift1"].score.text(3) in folded and "Empty-5x5:" not in folded
    # Of other weights: an evaluation that a copy brought along.
    file.write_text(file.read_text().replace(results.policy["weights_sha256"], "0" * 64))
    assert "Not evaluated" in (export_run(run, output=tmp_path / "other", format="pt2").folder / "README.md").read_text()
