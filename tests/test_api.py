"""The Python API: the same runs as the command's, experiments by keywords, interrupts, and policies that act."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import mtrl
from envs import SuiteError
from mtrl.api.overrides import override, resolve_experiment
from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.commands import train as command
from mtrl.cli.dispatch import main
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.config import override as by_dotted_names
from mtrl.errors import UserError
from mtrl.evaluation.jobs import play
from mtrl.evaluation.policy import load_actor
from mtrl.rollouts.inference import Inference

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guides" / "python.md").read_text()
TINY = {"env_runners": {"slots": 6, "unroll_length": 8}, "model": {"head_width": 16, "experts": 1}, "total_frames": 400, "progress": False}
ONCE = {"learner": {"epochs": 1, "minibatches": 1}}  # where the default experiment, which a suite gets, makes 64 steps of a batch
MEMORY = TINY | {"model": TINY["model"] | {"memory": True, "memory_size": 8}, "learner": {"minibatch_of": "traces"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return mtrl.train("toy", run_dir=tmp_path_factory.mktemp("api") / "run", **TINY)


@pytest.fixture(scope="module")
def with_memory(tmp_path_factory):
    return mtrl.train("toy", run_dir=tmp_path_factory.mktemp("api") / "run", **MEMORY)


def policies(path):
    return {file.parent.name: load_file(file) for file in path.rglob("weights.safetensors")}


def random_actor(run):
    """After 400 frames one action is the best of all, and a memory is not read yet: random weights tell more."""
    suite, actor = load_actor(next((run.path / "policy").iterdir()))
    generator = torch.Generator().manual_seed(1)
    for parameter in actor.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return suite, actor.eval()


def test_the_package_itself_imports_nothing_heavy():
    code = (
        "import sys, mtrl; assert sorted(mtrl.__all__) == mtrl.__all__ and set(mtrl.__all__) <= set(dir(mtrl))\n"
        "heavy = {'torch', 'ray', 'envs', 'gymnasium', 'numpy', 'pydantic'} & set(sys.modules); assert not heavy, heavy\n"
        "assert all(getattr(mtrl, name) is not None for name in mtrl.__all__) and 'ray' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_examples_of_the_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    assert len(blocks) == 3 and all(block.count("\n") <= 10 for block in blocks)
    for block in blocks:
        exec(compile(block, "python.md", "exec"), {"mtrl": mtrl})
    assert "finished 4000" in capsys.readouterr().out


def test_a_run_is_the_commands(run, tmp_path):
    """The same weights, bit for bit, and the same lines on the screen."""
    options = ["--env-runners.slots", "6", "--env-runners.unroll-length", "8", "--model.head-width", "16", "--model.experts", "1"]
    assert main(["train", "toy", *options, "--total-frames", "400", "--run-dir", str(tmp_path / "run")]) == 0
    ours, theirs = policies(run.path), policies(tmp_path / "run")
    assert ours.keys() == theirs.keys() and run.config == mtrl.load_run(tmp_path / "run").config
    for step, weights in ours.items():
        assert all(np.array_equal(array, theirs[step][name]) for name, array in weights.items())


def test_what_a_run_knows(run):
    assert run.state == "finished" and set(run.scores()) == {"corridor", "constant", "cue"}
    assert run.scores()["constant"] == run.metrics[-1]["tasks/constant/score"] == 1.0  # ten rewards of 1, whatever is done
    results = run.evaluate(episodes=2, tasks=["constant"], progress=False)
    assert results.tasks["constant"].n == 2 and results.score_mean.value == 1.0
    for bad, said in (({"episodes": 0}, "episodes: must be 1"), ({"actions": "gredy"}, "did you mean greedy"), ({"checkpoint": 7}, "'7'")):
        with pytest.raises(UserError, match=said):
            run.evaluate(**bad)
    with pytest.raises(UserError, match="larger --total-frames, or total_frames"):
        run.resume(progress=False)
    with pytest.raises(UserError, match=r"model\.experts cannot change"):
        run.resume(model={"experts": 2}, total_frames=900, progress=False)


def test_silence_and_the_commands_lines(tmp_path, capsys):
    mtrl.train("toy", run_dir=tmp_path / "a", **TINY)
    assert capsys.readouterr().out == ""
    mtrl.train("toy", run_dir=tmp_path / "b", **TINY | {"progress": True})
    assert re.search(r"toy/three: starting in this process\ntoy: 3 tasks.*frames/s.*run directory: ", capsys.readouterr().out, re.S)


def test_keywords_change_what_they_name():
    base = by_dotted_names(ExperimentConfig(), {"learner.actor.decay": True, "curriculum.options": {"a": 1}})
    changed = override(base, {"learner": {"actor": {"learning_rate": 0.5}}, "num_env_runners": 3, "curriculum": {"options": {"b": 2}}})
    expected = {"learner.actor.learning_rate": 0.5, "env_runners.num_env_runners": 3, "curriculum.options": {"b": 2}}
    assert changed == by_dotted_names(base, expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 2}, "epochs: unknown field; did you mean learner={'epochs': ...}?"),
        ({"learner__actor__decay": True}, "did you mean learner={'actor': {'decay': ...}}?"),
        ({"learner.epochs": 2}, "did you mean learner={'epochs': ...}?"),
        ({"totl_frames": 2}, "did you mean total_frames=...?"),
        ({"learner": {"epoch": 2}}, "learner.epoch: unknown field; did you mean epochs?"),
        ({"zzzz": 2}, "zzzz: unknown field; known are name, seed"),
        ({"learner": 3}, "learner: is a section"),
        ({"total_frames": 0}, "total_frames: must be greater than or equal to 1, got 0"),
    ],
)
def test_a_wrong_keyword_is_told_the_right_one(changes, said):
    with pytest.raises(ConfigError) as error:
        override(ExperimentConfig(), changes)
    assert said in str(error.value)


def test_what_the_first_argument_may_be(tmp_path):
    """A suite means what it means on the command line. Runners are those that are asked for, else none."""
    options = ["--suite.name", "toy/cue", "--num-env-runners", "0"]
    parsed, config = parse_with_experiment(command.TrainOptions(), options, "train", "", command._starting_experiment)
    assert resolve_experiment("toy/cue", {}) == command._named(config, parsed) and config.name == "minigrid_mt3"
    (tmp_path / "mine.yaml").write_text("suite: {name: toy/cue}\nenv_runners: {num_env_runners: 2}\n")
    assert resolve_experiment(tmp_path / "mine.yaml", {}).env_runners.num_env_runners == 2
    assert resolve_experiment(tmp_path / "mine.yaml", {"num_env_runners": 1}).env_runners.num_env_runners == 1
    assert resolve_experiment("minigrid_mt3", {}).env_runners.num_env_runners == 0 < ExperimentConfig().env_runners.num_env_runners
    assert resolve_experiment(by_dotted_names(ExperimentConfig(), {"seed": 3}), {}).env_runners.num_env_runners == 1, "it says so"
    for name, error, said in (
        ("minigrid_mt33", UserError, "did you mean minigrid_mt3"),
        ("toy/coridor", SuiteError, "did you mean corridor"),
    ):
        with pytest.raises(error, match=said):
            mtrl.train(name, run_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_interrupt_saves_and_is_raised(tmp_path):
    """Handlers and threads are those from before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    threads = torch.get_num_threads()
    path = tmp_path / "run"

    def interrupt():
        while not (path / "metrics.jsonl").exists():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as raised:
        mtrl.train("toy", run_dir=path, **TINY | {"total_frames": 10**8, "report_seconds": 0.2})
    thread.join()
    (note,) = raised.value.__notes__
    assert f"load_run('{path}').resume()" in note
    assert {number: signal.getsignal(number) for number in before} == before and torch.get_num_threads() == threads
    run = mtrl.load_run(path)
    frames = max(map(int, policies(path)))
    assert run.state == "interrupted" and frames > 0
    assert run.resume(total_frames=frames + 100, progress=False) is run and run.state == "finished"


class Overflowing(gymnasium.Env):
    """Pays more than a sum of floats can hold."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 3e38, False, False, {}


def test_a_run_that_fails_raises_the_reason(tmp_path):
    gymnasium.register("Overflowing-v0", Overflowing, max_episode_steps=10)
    with pytest.raises(mtrl.TrainingError, match="Overflowing-v0"):
        mtrl.train("gym/Overflowing-v0", run_dir=tmp_path / "run", **TINY | ONCE | {"total_frames": 10**6})
    assert mtrl.load_run(tmp_path / "run").state == "failed"


def test_other_threads_train_without_handlers_and_without_ray(tmp_path):
    raised, before = [], signal.getsignal(signal.SIGTERM)

    def train(name, **more):
        try:
            mtrl.train("toy", run_dir=tmp_path / name, **TINY, **more)
        except UserError as error:
            raised.append(str(error))

    for name, more in (("a", {}), ("b", {"num_env_runners": 1})):
        thread = threading.Thread(target=train, args=(name,), kwargs=more)
        thread.start()
        thread.join()
    assert mtrl.load_run(tmp_path / "a").state == "finished" and signal.getsignal(signal.SIGTERM) is before
    assert len(raised) == 1 and "main thread" in raised[0] and not (tmp_path / "b").exists()


@pytest.mark.parametrize("which", ["run", "with_memory"])
@pytest.mark.parametrize("task", ["corridor", "constant", "cue"])
def test_a_policy_plays_as_evaluations_do(which, task, request):
    """These tasks have no chance in them, so greedy episodes are equal."""
    suite, actor = random_actor(request.getfixturevalue(which))
    (expected,) = play(actor, suite, suite.index(task), 1, backend="gymnasium", seed=0, sampled=False)
    policy = mtrl.Policy(suite, actor)
    for _ in range(2):  # the second episode needs the reset
        env, total, length, ended, reward = policy.make_env(task), 0.0, 0, False, None
        observation, _ = env.reset()
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation, task, reward=reward))
            total, length, ended = total + reward, length + 1, terminated or truncated
        assert (total, length) == (pytest.approx(expected.episode_return), expected.length)
        policy.reset(task)


def test_a_batch_is_as_good_as_one_after_the_other(with_memory):
    """As a training's runner acts, also where one of the environments begins a new episode."""
    rng = np.random.default_rng(0)
    steps, rewards = rng.normal(size=(24, 3, 8)).astype(np.float32), rng.uniform(-1, 1, (24, 3))
    suite, actor = random_actor(with_memory)
    together, alone = (mtrl.Policy(suite, actor) for _ in range(2))
    batch = []
    for t in range(24):
        if t % 4 == 3:
            together.reset("cue", ended=[False, True, False])
        batch.append(together.act({"vector": steps[t]}, "cue", reward=rewards[t]))
    for slot in range(3):
        alone.reset()
        runner = Inference(actor, torch.Generator(), torch.device("cpu"), sampled=False)
        runner.start(np.array([suite.index("cue")]))
        for t in range(24):
            if t % 4 == 3 and slot == 1:
                alone.reset("cue")
            runner.follow(rewards[t, [slot]].astype(np.float32), valid=np.array([t > 0 and (t % 4, slot) != (3, 1)]))
            (expected,), _ = runner.act({"vector": steps[t, [slot]]})
            assert alone.act({"vector": steps[t, slot]}, "cue", reward=rewards[t, slot]) == batch[t][slot] == expected
    assert len(np.unique(batch)) == 3
    with pytest.raises(UserError, match="3 environments of cue were being played, and now 2"):
        together.act({"vector": steps[0, :2]}, "cue")
    with pytest.raises(UserError, match=r"`ended` has shape \(2,\)"):
        together.reset("cue", ended=[True, False])
    with pytest.warns(UserWarning, match="reads the last reward"):
        together.act({"vector": steps[0]}, "cue")


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (np.zeros(8), "no observation of cue"),
        ({"vector": np.zeros(9)}, r"has shape \(9,\); it has to be \(8,\), or \(N, 8\)"),
        ({"vector": np.zeros((2, 2, 8))}, r"has shape \(2, 2, 8\)"),
        ({"vector": np.zeros((0, 8))}, r"has shape \(0, 8\)"),
    ],
)
def test_an_observation_of_another_shape_is_refused(run, observation, said):
    with pytest.raises(UserError, match=said):
        run.policy().act(observation, "cue")


def test_actions_are_those_of_the_environments_of_each_kind(tmp_path):
    """Of a mixed suite: a number for one task, a vector within -1 and 1 for another, which `make_env` maps to the torque's bounds."""
    run = mtrl.train("toy/cue+gym/Pendulum-v1?low=-1600&high=0", run_dir=tmp_path / "run", **TINY | ONCE)
    (folder,) = (run.path / "policy").iterdir()
    policy = mtrl.load_policy(folder, seed=1)
    assert policy.act({"vector": np.zeros(8, np.float32)}, "cue") in (0, 1, 2)
    env = policy.make_env("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    drawn = {float(policy.act(observation, "Pendulum-v1", deterministic=False)[0]) for _ in range(50)}
    assert len(drawn) > 20 and min(drawn) >= -1 and max(drawn) <= 1
    assert policy.act(observation, "Pendulum-v1") == policy.act(observation, "Pendulum-v1")
    env.step(policy.act(observation, "Pendulum-v1"))
    assert -2 <= env.unwrapped.last_u <= 2
    with pytest.raises(SuiteError, match="did you mean Pendulum-v1"):
        policy.act(observation, "Pendulum-v0")
    with pytest.raises(UserError, match="there is no run directory"):
        mtrl.load_policy(tmp_path / "nothing")


def test_a_warning_by_a_job_ends_the_training_and_is_not_taken_for_its_end(tmp_path):
    """Slurm sends SIGUSR1. The caller's handler is there again, and a signal that is ignored is an error of the training."""
    previous = signal.getsignal(signal.SIGUSR1)
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        run = mtrl.train("toy", run_dir=tmp_path / "run", **TINY | {"total_frames": 10**9})
        assert seen and run.state == "interrupted"  # the caller's handler has heard of it
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(mtrl.TrainingError, match="SIGUSR1"):
            mtrl.train("toy", run_dir=tmp_path / "other", **TINY | {"total_frames": 10**9})
    finally:
        signal.signal(signal.SIGUSR1, previous)
