"""Task conditioning: what a policy reads of its tasks, and what it does on tasks that it was not trained on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Silent, collect, toy_config

from envs import SuiteError, TaskSuite, make_suite
from envs.registry import list_suites
from envs.task import Task
from mtrl.cli.dispatch import main
from mtrl.config import ConfigError, ModelConfig, override
from mtrl.dashboard.folder import RunFolder
from mtrl.dashboard.page import head_of
from mtrl.dashboard.runs import read_run
from mtrl.errors import UserError
from mtrl.evaluation.results import read_results
from mtrl.evaluation.runner import evaluate_run
from mtrl.evaluation.unseen import suite_to_play
from mtrl.learning.learner import Learner
from mtrl.models.conditioning import TaskSentences, places_of, weights_for
from mtrl.models.normalization import Scale
from mtrl.models.policy import Policy, build_policy
from mtrl.models.rows import make_rows, single_steps
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.trainer import build_trainer

SEEN = "toy/red-ball,red-box,green-box,green-key,blue-key,blue-ball"
HELD_OUT = ("red-key", "green-ball", "blue-box")
VECTORS = ("embedding", "sentence")
MODEL = {"heads": "single", "head_width": 16, "task_vector_size": 8}


def policy_of(suite: TaskSuite, conditioning: str = "sentence", **changes) -> Policy:
    return build_policy(ModelConfig(**(MODEL | {"conditioning": conditioning} | changes)), suite, 0).eval()


def outputs(policy: Policy, suite: TaskSuite, rows_per_task: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Action parameters and values of the same observations in every task: [tasks, rows, …] and [tasks, rows]."""
    obs = np.random.default_rng(0).random((rows_per_task, 8), np.float32)
    tasks = np.arange(suite.num_tasks).repeat(rows_per_task)
    rows = make_rows({"vector": np.tile(obs, (suite.num_tasks, 1))}, tasks, suite.num_tasks, torch.device("cpu"))
    acted, valued = policy(single_steps(rows))
    return acted.parameters[0].unflatten(0, (-1, rows_per_task)), valued.values[0].unflatten(0, (-1, rows_per_task))


def described(**sentences: str) -> TaskSuite:
    suite = make_suite("toy/three")
    return replace(suite, tasks=tuple(replace(suite.tasks[0], name=name, description=text) for name, text in sentences.items()))


DESCRIBED = ("atari", "babyai", "context", "metaworld", "minigrid", "toy")


def test_every_task_of_every_family_has_a_sentence_of_its_own():
    for name in list_suites():
        try:
            tasks = make_suite(name).tasks
        except SuiteError as error:  # its simulator is not installed
            assert "package" in str(error)
            continue
        if name.partition("/")[0] in DESCRIBED:  # the others have the words of their names
            assert all(len(task.description.split()) > 3 for task in tasks), name
        if not name.startswith("atari/"):  # two of its games are alike
            assert len({task.sentence for task in tasks}) == len(tasks), name


@pytest.mark.parametrize(
    ("name", "words"), [("DoorKey-6x6", "door key 6 x 6"), ("length=0.35", "length 0.35"), ("my_GPUTask-v0", "my gpu task v 0")]
)
def test_a_name_without_a_description_is_read_as_words(name, words):
    assert Task(name, lambda: None).sentence == words


@pytest.mark.parametrize("trunks", ["separate", "shared"])
@pytest.mark.parametrize("conditioning", VECTORS)
def test_outputs_of_a_task_depend_on_its_own_vector_alone(conditioning, trunks):
    suite = make_suite("toy/three")
    policy = policy_of(suite, conditioning, trunks=trunks, gate="uniform")  # the heads read the vector, whatever the gate does
    before = outputs(policy, suite)
    with torch.no_grad():
        for trunk in {policy.actor.trunk, policy.critic.trunk} - {None}:
            if conditioning == "embedding":
                trunk.gate.vectors.table[1] += 1.0
            else:
                trunk.gate.vectors.words[1] = trunk.gate.vectors.words[1].roll(1) * 3
    for one, other in zip(before, outputs(policy, suite), strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]]) and (one[1] != other[1]).any()


@pytest.mark.parametrize("gate", ["linear", "softmax", "topk", "skills"])
@pytest.mark.parametrize("conditioning", VECTORS)
def test_weights_of_the_experts_depend_on_the_vector(conditioning, gate):
    gate = policy_of(make_suite("toy/three"), conditioning, gate=gate, experts=4).actor.trunk.gate
    table = gate.task_weights()
    assert table.shape == (3, 4) and not torch.equal(table[0], table[1])
    table.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in gate.vectors.parameters() if parameter.shape != (32, 2))


def test_the_same_sentence_is_the_same_policy():
    suite = described(a="push the ball", b="pull the box", c="Push the ball!", d="ball the push")
    for found in outputs(policy_of(suite), suite):
        assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
        torch.testing.assert_close(found[0], found[3])  # the words, without their order


def test_unknown_words_say_nothing_until_they_are_trained():
    trained, other = (
        described(a="push the ball", b="pull the box"),
        described(a="", n="push the ball zyzzyva", m="übergröße ⚙ push the ball"),
    )
    weights = policy_of(trained).state_dict()
    policy = policy_of(other)
    policy.load_state_dict(weights_for(policy, weights, places_of(other, trained.names)))
    vectors = policy.actor.trunk.gate.vectors
    learned, unknown = vectors._places()[1, :3], vectors._places()[1, 3]
    assert (learned < vectors.VOCABULARY).all() and unknown >= vectors.VOCABULARY and not vectors.word_vectors.weight[unknown].any()
    assert all(found.isfinite().all() for found in outputs(policy, other))


def test_the_vector_of_a_sentence_by_hand():
    """(mean of the words' vectors) · A + a; a number is one word plus a linear function of its size."""
    network = TaskSentences(["go to 3", "stay"], 5)
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    rows = network._places().numpy()
    number = state["number_vectors.weight"] @ np.array([np.log10(3.01), 3 / 4])
    means = [state["word_vectors.weight"][rows[0, :3]].sum(0) / 3 + number / 3, state["word_vectors.weight"][rows[1, 0]]]
    expected = np.stack(means) @ state["output.weight"].T + state["output.bias"]
    np.testing.assert_allclose(network().detach().numpy(), expected, atol=1e-5)


def test_numbers_that_are_near_are_alike():
    vectors = TaskSentences([f"length {value}" for value in (0.1, 0.2, 1, 10, -1)], 8)().detach()
    to_others = (vectors - vectors[0]).norm(dim=1)
    assert 0 < to_others[1] < to_others[2] < to_others[3] and not torch.equal(vectors[2], vectors[4])


@pytest.mark.parametrize("conditioning", VECTORS)
def test_a_permutation_of_the_tasks_permutes_the_outputs(conditioning):
    suite = make_suite("toy/three")
    turned = replace(suite, tasks=(suite.tasks[2], suite.tasks[0], suite.tasks[1]))
    policy, other = policy_of(suite, conditioning), policy_of(turned, conditioning)
    other.load_state_dict(weights_for(other, policy.state_dict(), places_of(turned, suite.names)))
    for one, permuted in zip(outputs(policy, suite), outputs(other, turned), strict=True):
        torch.testing.assert_close(permuted, one[[2, 0, 1]])


@pytest.mark.parametrize("trunks", ["separate", "shared"])
@pytest.mark.parametrize("conditioning", VECTORS)
def test_actor_and_critic_both_train_the_vectors(conditioning, trunks):
    suite = make_suite("toy/three")
    policy = policy_of(suite, conditioning, trunks=trunks)
    own = policy.actor.trunk.gate.vectors
    of_critic = own if trunks == "shared" else policy.critic.trunk.gate.vectors
    parameters, values = outputs(policy, suite)
    for output, trained, other in ((parameters, own, of_critic), (values, of_critic, own)):
        policy.zero_grad()
        output.square().sum().backward(retain_graph=True)
        assert all(parameter.grad.any() for parameter in trained.parameters() if parameter.shape != (32, 2))
        assert trunks == "shared" or all(parameter.grad is None or not parameter.grad.any() for parameter in other.parameters())


def test_an_embedding_that_was_not_trained_is_the_mean_of_those_that_were():
    before, after = make_suite("toy/three"), make_suite("toy/cue,red-ball")
    policy = policy_of(after, "embedding")
    trained = policy_of(before, "embedding").state_dict()
    fitted = weights_for(policy, trained, places_of(after, before.names))
    table, old = fitted["actor.trunk.gate.vectors.table"], trained["actor.trunk.gate.vectors.table"]
    assert torch.equal(table[0], old[2])
    torch.testing.assert_close(table[1], old.mean(0))


def test_statistics_of_a_task_that_was_not_trained_are_those_of_all_observations():
    rng, scale = np.random.default_rng(0), Scale(2, 3)
    data = [rng.normal(5, 2, (40, 3)), rng.normal(-1, 1, (10, 3))]
    for task, vectors in enumerate(data):
        scale.update(torch.from_numpy(vectors), torch.full((len(vectors),), task), torch.ones(len(vectors)))
    rows = scale.rows_for(scale.state_dict(), [None, 1])
    together = np.concatenate(data)
    np.testing.assert_allclose(rows["mean"][0], together.mean(0))
    np.testing.assert_allclose((rows["square"] / rows["count"])[0], together.var(0))
    assert all(torch.equal(rows[name][1], scale.state_dict()[name][1]) for name in rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__heads": "multi"}, "needs a head that reads the task's vector.*set model.heads to 'single'"),
        ({"model__popart": True}, "set model.popart to false"),
        ({"model__gate": "one_per_task", "model__experts": 3}, "has parameters of its own for each task.*set model.gate to linear"),
        ({"model__gate": "dselect_k"}, "has parameters of its own for each task"),
    ],
)
def test_what_has_a_part_for_each_task_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        config = toy_config(**{"model__heads": "single", "model__conditioning": "sentence", **changes})
        Learner(config, make_suite(config.suite.name))


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": "minigrid/mt3", "model__memory": True, "learner__minibatch_of": "traces", "learner__minibatches": 2},
        {"suite": "toy/cue,corridor+context/cartpole=0.5,1", "model__trunks": "shared", "learner__combiner": "pcgrad"},
        {
            "suite": "context/pendulum=0.7,1",
            "model__normalize_observations": True,
            "learner__surrogate": "clipped",
            "learner__proximal": "average",
        },
    ],
    ids=["memory", "mixed", "continuous"],
)
@pytest.mark.parametrize("conditioning", VECTORS)
def test_learns_in_every_kind_of_run(conditioning, changes):
    config = toy_config(model__heads="single", model__conditioning=conditioning, **changes)
    learner = Learner(config, make_suite(config.suite.name))
    vectors = learner.policy.actor.trunk.gate.vectors
    before = vectors().detach().clone()
    for rollout in collect(config, 3):
        learner.update(rollout, 0.0)
    assert learner.skipped_steps == 0 and not torch.equal(vectors().detach(), before)


@pytest.mark.parametrize("conditioning", VECTORS)
def test_a_run_goes_on_with_other_tasks(tmp_path, conditioning):
    changes = {"model__heads": "single", "model__conditioning": conditioning, "total_frames": 500}
    config = toy_config(suite="toy/cue,corridor", **changes)
    directory, old = RunDirectory.create(tmp_path / "run", config), build_trainer(config)
    assert run_training(old, directory, Silent()) == 0
    config = override(config, {"suite.name": "toy/red-ball,corridor,cue", "total_frames": 900})
    directory, new = RunDirectory(directory.path, config), build_trainer(config)
    fresh = new.learner.policy.actor.trunk.gate.vectors.state_dict()
    fresh = {name: tensor.clone() for name, tensor in fresh.items()}
    assert resume(new, directory, Silent(), allow_task_change=True)
    own, former = (trainer.learner.policy.actor.trunk.gate.vectors.state_dict() for trainer in (new, old))
    for name in ("table",) if conditioning == "embedding" else ("words", "numbers"):
        assert torch.equal(own[name][[2, 1]], former[name]) and torch.equal(own[name][0], fresh[name][0])
    assert run_training(new, directory, Silent()) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs that were trained on six of the nine pairs of words."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = (*VECTORS, "one_hot")
    for conditioning in kinds:
        config = toy_config(suite=SEEN, model__heads="single", model__conditioning=conditioning, env_runners__slots=24, total_frames=1000)
        assert run_training(build_trainer(config), RunDirectory.create(folder / conditioning, config), Silent()) == 0
    return {conditioning: folder / conditioning for conditioning in kinds}


def test_a_context_between_those_that_were_trained_is_balanced_better_than_by_chance(tmp_path):
    """Random actions keep a pole of any length up for some twenty of the 500 steps."""
    fast = {"learner__actor__learning_rate": 4e-3, "learner__critic__learning_rate": 4e-3, "env_runners__unroll_length": 16}
    config = toy_config(
        suite="context/cartpole=0.3,1",
        model__heads="single",
        model__conditioning="sentence",
        env_runners__slots=16,
        total_frames=12_000,
        **fast,
    )
    directory = RunDirectory.create(tmp_path / "run", config)
    assert run_training(build_trainer(config), directory, Silent()) == 0
    results = evaluate_run(directory, suite="context/cartpole=0.6", episodes=10)
    assert results.tasks["length=0.6"].return_mean > 60 and results.tasks["length=0.6"].unseen
    assert np.isnan(results.score_mean.value) and list(results.tasks) == ["length=0.6"]


@pytest.mark.parametrize("conditioning", VECTORS)
def test_tasks_that_were_not_trained_are_marked_and_kept_apart(runs, conditioning, capsys):
    directory = RunDirectory.open(runs[conditioning])
    assert main(["evaluate", str(directory.path), "--episodes", "2", "--workers", "1"]) == 0
    [usual] = directory.layout.all_results()
    before = usual.read_bytes()
    assert b"unseen" not in before and b"played_suite" not in before
    capsys.readouterr()
    assert main(["evaluate", str(directory.path), "--tasks", "toy/pairs", "--episodes", "2", "--workers", "1"]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "red-key (unseen)" in said and "red-ball (unseen)" not in said and "on tasks that the policy was not trained on" in said
    assert usual.read_bytes() == before, "an evaluation of the run's own tasks is not replaced"
    [file] = directory.layout.all_unseen_results()
    results = read_results(file)
    assert {name for name, row in results.tasks.items() if row.unseen} == set(HELD_OUT) and results.suite == SEEN
    for mean, unseen in ((results.score_mean, False), (results.unseen_score_mean, True)):
        scores = [row.score.value for row in results.tasks.values() if row.unseen == unseen]
        assert mean is not None and mean.value == pytest.approx(np.mean(scores))
    assert json.loads(file.read_text())["played_suite"] == "toy/pairs"
    run = read_run(directory.path)
    assert [len(each.tasks) for each in run.evaluations] == [6] and run.unseen == replace(results, episodes=())
    facts = head_of(run, RunFolder(directory.path.parent).summary(conditioning)).facts
    [shown] = [text for name, text in facts if name == "score on tasks not trained"]
    assert "red-key" in shown and "red-ball" not in shown


def test_a_policy_plays_a_trained_task_in_another_suite_as_in_its_own(runs):
    directory = RunDirectory.open(runs["sentence"])
    own, other = (evaluate_run(directory, episodes=5, **which) for which in ({"tasks": ["red-box"]}, {"tasks": ["blue-box", "red-box"]}))
    returns = [[row["episode_return"] for row in results.episodes][-5:] for results in (own, other)]
    assert returns[0] == returns[1] and not other.tasks["red-box"].unseen and other.tasks["blue-box"].unseen


def test_without_vectors_or_with_other_spaces_it_is_refused_in_a_sentence(runs):
    with pytest.raises(UserError, match=r"was not trained on red-key of toy/pairs, and .*'one_hot' knows"):
        evaluate_run(RunDirectory.open(runs["one_hot"]), suite="toy/pairs")
    assert len(evaluate_run(RunDirectory.open(runs["one_hot"]), suite="toy/blue-key,red-ball", episodes=1).tasks) == 2, "its own tasks"
    with pytest.raises(UserError, match="cannot play toy/ladder: it was trained on tasks that observe"):
        evaluate_run(RunDirectory.open(runs["sentence"]), suite="toy/ladder")
    with pytest.raises(SuiteError, match="has no task 'red-kye'; did you mean"):
        evaluate_run(RunDirectory.open(runs["sentence"]), tasks=["red-kye"])


def test_a_policy_of_several_families_plays_new_tasks_beside_its_own():
    own = make_suite("toy/cue+context/cartpole=0.5,1")
    suite = suite_to_play(own, "context/cartpole=0.5,2")
    assert suite.names == ("cue", "length=0.5", "length=1", "length=2") and suite.observation_space == own.observation_space
    policy = policy_of(suite)
    policy.load_state_dict(weights_for(policy, policy_of(own).state_dict(), places_of(suite, own.names)))
