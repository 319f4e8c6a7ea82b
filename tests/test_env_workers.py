"""Worker processes give what the plain loop gives, and what dies, is interrupted or is left alone leaves nothing behind."""

from __future__ import annotations

import bdb
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import contract
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from helpers import toy_config

import envs
from envs import make_suite, make_vector
from envs.backends import choice
from envs.backends.workers import WorkerBackend
from envs.seeds import SeedSequences
from mtrl.config import ConfigError, override
from mtrl.training.trainer import build_trainer

ROOT = Path(__file__).parent.parent


def children() -> list[int]:
    """Living children of this process."""
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in own if Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def made():
    """Makes environments on workers, and closes them at the end: no process is left."""
    before, all_made = set(children()), []

    def make(suite: envs.TaskSuite | str, counts: int | list[int], **options: object) -> envs.VectorTasks:
        suite = envs.make_suite(suite) if isinstance(suite, str) else suite
        tasks = envs.make_vector(suite, counts, **{"backend": "gymnasium", "env_workers": 2, "seed": 3} | options)
        all_made.append(tasks)
        return tasks

    yield make
    for tasks in all_made:
        tasks.close()
    assert set(children()) <= before


def assert_same(a: envs.Step, b: envs.Step) -> None:
    assert a.obs.keys() == b.obs.keys()
    for name, array in a.obs.items():
        assert array.dtype == b.obs[name].dtype
        np.testing.assert_array_equal(array, b.obs[name])
    for field in ("rewards", "terminated", "truncated", "valid", "lost"):
        assert getattr(a, field).dtype == getattr(b, field).dtype
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert a.episodes == b.episodes
    assert [fault[:2] for fault in a.faults] == [fault[:2] for fault in b.faults]
    assert all("Traceback" in fault.traceback for fault in b.faults)


@pytest.mark.parametrize(
    ("name", "backend", "tolerant"),
    [
        ("chaos/minigrid/DoorKey-5x5,LavaGapS5,Empty-5x5?raise=0.03&nan=0.03&only=LavaGapS5,DoorKey-5x5", "gymnasium", True),
        ("gym/CartPole-v1+gym/Pendulum-v1+minigrid/DoorKey-5x5", "auto", False),
    ],
)
def test_steps_are_those_of_the_plain_loop(made, name, backend, tolerant):
    """Through pauses, growth, ends of episodes, faults and replacements."""
    alone, shared = (made(name, [2, 3, 1], backend=backend, env_workers=workers, tolerant=tolerant) for workers in (0, 2))
    first, second = alone.reset(), shared.reset()
    assert all(np.array_equal(first[key], second[key]) for key in first)
    episodes = faults = 0
    for counts in ([2, 3, 1], [4, 1, 1], [0, 6, 0], [1, 1, 4], [2, 3, 1]):
        alone.set_allocation(counts)
        shared.set_allocation(counts)
        for actions in contract.random_actions(alone.suite, 60, 6, seed=sum(counts[:2])):
            a, b = alone.step(actions), shared.step(actions)
            assert_same(a, b)
            episodes, faults = episodes + len(a.episodes), faults + len(a.faults)
    assert episodes > 5 and (faults > 10) == tolerant


def test_actions_arrive_to_the_last_digit():
    """In the type that they are given in: float64 has digits that the space's float32 does not have."""

    class Echo(gymnasium.Env):
        def reset(self, *, seed=None, options=None):
            return np.zeros(2), {}

        def step(self, action):
            return np.array(action, np.float64), 0.0, False, False, {}

    space = gymnasium.spaces.Dict({"action": gymnasium.spaces.Box(-1, 1, (2,), np.float64)})
    suite = envs.TaskSuite("echo", (envs.Task("echo", Echo),), space, gymnasium.spaces.Box(-1, 1, (2,)), lambda obs: {"action": obs})
    backend = WorkerBackend(suite, SeedSequences(0, 0, 0), 2)
    backend.grow(0, 3)
    for dtype in (np.float64, np.float32):
        actions = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(dtype)
        np.testing.assert_array_equal(backend.step(np.array([3]), actions).obs["action"], actions)
    backend.close()


def test_a_worker_that_dies_is_a_fault_of_the_task_that_it_stepped(made):
    """All that it had is replaced by environments with streams of their own, and the task that kills it rests ever longer."""
    tasks = made("chaos/minigrid/DoorKey-5x5,LavaGapS5?crash=1&only=LavaGapS5", [3, 1], tolerant=True)
    before = tasks.reset()["image"]
    seen = {image.tobytes() for image in before[:3]}
    steps = [tasks.step(np.zeros(4, int)) for _ in range(6)]
    died = [t for t, step in enumerate(steps) if step.faults]
    assert died[0] == 0 and 2 <= len(died) <= 3
    for step in (steps[t] for t in died):
        assert [fault.task_id for fault in step.faults] == [1]
        assert "ended with exit code 3" in step.faults[0].reason
        lost = np.flatnonzero(step.lost[:3])
        assert step.lost[3] and len(lost) in (1, 2)  # its share of the other task
        assert not step.valid[step.lost].any() and step.valid[~step.lost].all()
        new = {step.obs["image"][slot].tobytes() for slot in lost}
        assert not new & seen
        seen |= new
    untouched = [slot for slot in range(3) if not any(step.lost[slot] for step in steps)]
    assert untouched, "the other worker's environments go on"
    assert all(step.valid[:3].all() for t, step in enumerate(steps) if t not in died)


def test_errors_that_are_not_tolerated_come_as_they_were_raised(made):
    tasks = made("chaos/toy/three?crash=1&only=cue", 3)
    tasks.reset()
    with pytest.raises(envs.TaskFault, match=r"^cue: .*exit code 3") as died:
        tasks.step(np.zeros(3, int))
    assert died.value.task_id == 2
    tasks = made("chaos/toy/three?raise=1&only=constant", 3)
    tasks.reset()
    with pytest.raises(RuntimeError) as raised:
        tasks.step(np.zeros(3, int))
    assert str(raised.value) == "chaos: this environment raises"
    assert "in _fail" in "".join(raised.value.__notes__)  # where it was


def test_a_breakpoint_in_a_worker_says_what_to_do(made):
    class Stopping(gymnasium.Wrapper):
        def step(self, action):
            breakpoint()
            return self.env.step(action)

    gymnasium.register("Stopping-v0", lambda: Stopping(gymnasium.make("CartPole-v1")))  # known to this process alone
    try:
        tasks = made("gym/Stopping-v0", 2)
        tasks.reset()
        with pytest.raises(envs.SuiteError, match=r"set suite\.env_workers to 0"):
            tasks.step(np.zeros(2, int))
    finally:
        del gymnasium.registry["Stopping-v0"]


@pytest.mark.parametrize("tolerant", [True, False])
def test_a_worker_that_is_killed_between_steps_is_nobodys_fault(made, tolerant):
    before = set(children())
    tasks = made("toy/three", 6, tolerant=tolerant)
    tasks.reset()
    tasks.step(np.zeros(6, int))
    os.kill(min(set(children()) - before), signal.SIGKILL)
    if not tolerant:
        with pytest.raises(RuntimeError, match="SIGKILL"):
            tasks.step(np.zeros(6, int))
        return
    step = tasks.step(np.zeros(6, int))
    assert step.lost.sum() == 3 and not step.faults
    assert tasks.step(np.zeros(6, int)).valid.all()


def test_the_marker_shows_the_task_that_is_slow(made):
    tasks = made("chaos/toy/three?sleep=0.4&only=cue", 3)
    marker, seen = np.full(1, -1), set()
    tasks.watch(marker)
    tasks.reset()
    thread = threading.Thread(target=lambda: tasks.step(np.zeros(3, int)))
    thread.start()
    while thread.is_alive():
        seen.add(int(marker[0]))
        time.sleep(0.01)
    assert 2 in seen and marker[0] == -1


def test_an_interrupt_of_a_step_does_not_mix_up_the_next(made):
    tasks = made("chaos/toy/three?sleep=0.5&only=cue", 3)
    tasks.reset()

    def interrupt(*_):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            tasks.step(np.zeros(3, int))
    finally:
        signal.signal(signal.SIGALRM, previous)
    step = tasks.step(np.zeros(3, int))
    assert step.obs["vector"][2].argmax() == 1  # the third of the cues 0, 2, 1, 0: the step that was interrupted was made


PARENT = """
import os, sys, numpy, envs
tasks = envs.make_vector(envs.make_suite(f"chaos/toy/three?{sys.argv[1]}=1"), 4, env_workers=2)
tasks.reset()
print(*open(f"/proc/self/task/{os.getpid()}/children").read().split(), flush=True)
try:
    while True:
        tasks.step(numpy.zeros(4, int))
except KeyboardInterrupt:
    tasks.close()
    print("closed", flush=True)
"""


@pytest.mark.parametrize(("which", "environment"), [(signal.SIGKILL, "hang"), (signal.SIGINT, "sleep")])
def test_workers_end_with_their_parent(which, environment):
    """It is killed in the middle of a step that hangs, or the whole group is interrupted, as a terminal does."""
    command = [sys.executable, "-c", PARENT, environment]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.3)
    if which == signal.SIGINT:
        os.killpg(parent.pid, which)
    else:
        parent.send_signal(which)
    output, errors = parent.communicate(timeout=30)
    if which == signal.SIGINT:
        assert (output, errors) == ("closed\n", "")
    deadline = time.monotonic() + 10
    while living := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, living
        time.sleep(0.05)


def test_slow_steps_get_a_worker_for_each_core(made):
    said: list[str] = []
    before = set(children())
    options = {"env_workers": "auto", "cores": 2, "say": said.append}
    made("toy/three", 4, **options)
    made("chaos/toy/three?sleep=0.005&only=cue", 1 + 3, **options | {"cores": 1})
    made("chaos/toy/cue?sleep=0.005", 1, **options)
    assert not said and set(children()) == before, "a step is quick, one core is there, one slot is there"
    made("chaos/toy/three?sleep=0.005&only=cue", 4, **options | {"cores": 3})
    assert len(set(children()) - before) == 3
    (sentence,) = said
    measured = float(sentence.removeprefix("a step of cue takes ").split()[0])
    assert 5 <= measured < 50
    assert "ms: 3 worker processes step 4 environments (started in " in sentence


def test_environments_that_crash_are_measured_elsewhere():
    """A runner goes on where one dies in the measurement, and finds a slow one as a run in one process does."""
    found = [choice.slow_task_elsewhere(envs.make_suite(f"chaos/toy/three?{query}&only=cue")) for query in ("crash=1", "sleep=0.005")]
    assert found[0] == "an environment ended the process that measured its steps"
    assert found[1].startswith("a step of cue takes ")
    assert choice.slow_task_elsewhere(envs.make_suite("toy/three")) is None


def test_a_debugger_keeps_environments_in_this_process(made, monkeypatch):
    monkeypatch.setattr(choice.sys, "gettrace", lambda: print)
    before = set(children())
    made("chaos/toy/three?sleep=0.005", 4, env_workers="auto", cores=2)
    assert set(children()) == before


def test_measuring_draws_from_no_stream_of_the_run():
    suite = envs.make_suite("chaos/minigrid/mt3?sleep=0.001")
    suite.action_space.seed(0)
    expected = [suite.action_space.sample() for _ in range(5)]
    suite.action_space.seed(0)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    assert choice.slow_task(suite).startswith(f"a step of {suite.names[0]} takes ")
    assert [suite.action_space.sample() for _ in range(5)] == expected
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_suite_that_cannot_leave_this_process_stays_here(made):
    suite = envs.make_suite("chaos/toy/three?sleep=0.002")
    lock = threading.Lock()
    bound = envs.TaskSuite(suite.name, suite.tasks, suite.observation_space, suite.action_space, lambda obs: obs if lock else None)
    with pytest.raises(envs.SuiteError, match=r"cannot be stepped in another process .*lock.*; set suite\.env_workers to 0"):
        made(bound, 4)
    said: list[str] = []
    tasks = made(bound, 4, env_workers="auto", cores=2, say=said.append)
    assert len(said) == 1 and "this process steps" in said[0]
    tasks.reset()
    assert tasks.step(np.zeros(4, int)).valid.all()


def test_training_does_not_depend_on_the_workers():
    weights = []
    for workers in (0, 2):
        trainer = build_trainer(toy_config(suite__env_workers=workers, suite__backend="gymnasium"))
        assert trainer.remarks() == [] if workers == 0 else trainer.remarks()[0].startswith("2 worker processes step")
        for _ in range(3):
            trainer.step()
        weights.append(trainer.policy_weights())
        trainer.close()
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("value", ["many", -1, 1.5, True])
def test_the_number_of_workers_is_auto_or_whole(value):
    with pytest.raises(ConfigError, match=r"suite\.env_workers.*must be 'auto' or a whole number of 0 or more"):
        override(toy_config(), {"suite.env_workers": value})


def test_workers_import_no_tensors():
    heavy = "import sys, envs.backends.worker; print([m for m in ('torch', 'ray', 'mtrl', 'minigrid', 'envpool') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=ROOT, check=True)
    assert output.stdout.strip() == "[]"


def test_a_task_that_calls_a_debugger_stays_in_this_process():
    """Its steps take long while somebody reads variables, and a worker has no prompt."""

    class Prompt(bdb.Bdb):
        def user_line(self, frame):
            time.sleep(0.05)
            self.set_continue()

    class Stopping(CartPoleEnv):
        def step(self, action):
            Prompt().set_trace()
            return super().step(action)

    gymnasium.register("WorkersStopping-v0", Stopping, max_episode_steps=50)
    tasks = make_vector(make_suite("gym/WorkersStopping-v0"), 4, env_workers="auto", cores=2)
    assert type(tasks._backend).__name__ == "GymnasiumBackend"
    tasks.close()
