"""Runners on real Ray actors that die, hang and fail."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from helpers import processes_with, steps_until, toy_config
from ray.exceptions import ObjectLostError, RayActorError

from envs.errors import portable
from mtrl.benchmark import chaos as bench_chaos
from mtrl.config import dump_yaml, load_config, override
from mtrl.distributed import MultiTaskIMPALAConfig
from mtrl.distributed.cluster import start_ray
from mtrl.distributed.env_runner import Failure
from mtrl.distributed.source import RaySource
from mtrl.rollouts.source import RunnerLostError, SourceFault
from mtrl.storage.checkpoint import newest_valid
from mtrl.training.quarantine import TasksFailedError

RAY_TOY = {"env_runners__num_env_runners": 1, "env_runners__slots": 12, "total_frames": 10_000_000}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    start_ray()
    yield
    ray.shutdown()


def test_a_signal_to_the_whole_group_reaches_the_checkpoint_first(tmp_path):
    """As `timeout`, Slurm and systemd send it: Ray's processes are not in our group, and none of them stays."""
    command = [
        sys.executable,
        "launch.py",
        "train",
        "toy",
        "--num-env-runners",
        "1",
        "--total-frames",
        "1e9",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    mark = tmp_path.as_posix()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--report-seconds", "0.5"], stdout=log, stderr=log, start_new_session=True, env=os.environ | {"MTRL_TEST_MARK": mark}
        )
    metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.1)
    assert len(processes_with(mark)) > 3  # among them Ray's
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) == 143
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said and "error" not in said
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert newest_valid(tmp_path / "run" / "checkpoints")[0].manifest.step == rows[-1]["summary/frames"] > 0
    time.sleep(0.5)
    assert processes_with(mark) == set()


ENDS_WHILE_WORKERS_ACT = """
import os, time, ray
from mtrl.distributed import cluster

cluster.start_ray()

@ray.remote(num_cpus=0.1)
class Actor:
    def act(self, seconds):
        time.sleep(seconds)

actors = [Actor.remote() for _ in range(2)]
ray.get([actor.act.remote(0) for actor in actors])
acting = [actor.act.remote(60) for actor in actors]
time.sleep(0.3)
shutdown = ray.shutdown
ray.shutdown = lambda: (time.sleep(1), shutdown())  # time for Ray to report workers that have been killed before it
cluster.end_ray()
os._exit(0)
"""


def test_workers_that_end_with_the_run_are_not_reported_as_dead(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ENDS_WHILE_WORKERS_ACT)
    said = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True, timeout=60
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def built(suite: str = "toy/three", **changes):
    return MultiTaskIMPALAConfig.from_experiment(toy_config(suite, **RAY_TOY | changes)).build_algo()


def test_a_runner_that_is_killed_costs_one_unroll_and_acts_again_with_new_weights():
    algorithm = built(env_runners__num_env_runners=2, env_runners__num_cpus_per_env_runner=0.5)
    trainer = algorithm.trainer
    try:
        steps_until(trainer, lambda said: trainer.updates >= 20)
        (pid,) = algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), remote_worker_ids=[1], local_env_runner=False)
        os.kill(pid, signal.SIGKILL)
        killed, frames = time.monotonic(), trainer.frames
        steps_until(trainer, lambda said: any("runner 1: died, and is started again" in message for message in said))
        trainer._versions._last.pop(1, None)
        version = trainer.updates
        steps_until(trainer, lambda said: 1 in trainer._versions._last)
        assert trainer.frames > frames  # the other one went on meanwhile
        assert trainer._versions._last[1] >= version  # it has pulled weights before it acted
        assert trainer._source.lost == 1
        print(f"acting again after {time.monotonic() - killed:.1f} s")
    finally:
        algorithm.stop()


@pytest.mark.parametrize(("runners", "batch"), [(1, 1), (1, 2), (2, 2)])
def test_without_a_queue_no_rollout_is_collected_with_old_weights(runners, batch, monkeypatch):
    """Where all runners together make whole batches. They are looked after while the learner works, but not asked for more."""
    monkeypatch.setattr("mtrl.training.trainer.TEND_SECONDS", 0.001)
    changes = {"num_env_runners": runners, "num_cpus_per_env_runner": 0.5, "rollouts_in_flight": 1}
    algorithm = built(
        learner__max_queued_batches=0,
        learner__rollouts_per_update=batch,
        learner__surrogate="clipped",
        learner__epochs=8,
        **{f"env_runners__{name}": value for name, value in changes.items()},
    )
    trainer = algorithm.trainer
    tend, tended = trainer._source.tend, []
    monkeypatch.setattr(trainer._source, "tend", lambda untrained: tended.append(untrained) or tend(untrained))
    try:
        steps_until(trainer, lambda said: trainer.updates >= 10)  # one of them may have started later
        trainer.metrics()
        tended.clear()
        steps_until(trainer, lambda said: trainer.updates >= 30)
        assert trainer.metrics()["summary/policy_lag"] == 0
        assert len(tended) >= 20 and all(set(untrained) == set(range(1, runners + 1)) for untrained in tended)
    finally:
        algorithm.stop()


def test_while_a_runner_is_missing_the_other_is_asked_in_its_place(monkeypatch):
    """First one that stands still, then one that was killed. Else learner and the other runner would wait for each other in turn."""
    runners = {"num_env_runners": 2, "num_cpus_per_env_runner": 0.5, "rollouts_in_flight": 1}
    algorithm = built(learner__max_queued_batches=0, **{f"env_runners__{name}": value for name, value in runners.items()})
    trainer = algorithm.trainer
    source, request = trainer._source, trainer._source._request
    asked: list[tuple[int, int]] = []  # requests at both runners, whenever some may have been sent

    def watched() -> None:
        request()
        asked.append((source._waiting(1), source._waiting(2)))

    def steps(until) -> None:
        asked.clear()
        steps_until(trainer, lambda said: bool(asked) and until())

    monkeypatch.setattr(source, "_request", watched)
    try:
        steps(lambda: trainer.updates >= 30)  # one of them may have started later
        steps(lambda: trainer.updates >= 90)
        assert asked.count((1, 1)) > 0.9 * len(asked)  # all of them, where no runner waits for a core for a second
        (pid,) = algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), remote_worker_ids=[2], local_env_runner=False)
        os.kill(pid, signal.SIGSTOP)
        steps(lambda: (2, 1) in asked[-100:])
        os.kill(pid, signal.SIGCONT)
        steps(lambda: asked[-1] == (1, 1))
        updates = trainer.updates
        os.kill(pid, signal.SIGKILL)
        steps(lambda: asked[-1] == (1, 1) and trainer._versions._last[2] > updates)
        assert max(map(max, asked)) <= 2  # (2, 0) meanwhile, unless it was back before anybody looked
    finally:
        algorithm.stop()


@pytest.mark.slow
def test_an_environment_that_ends_the_process_is_named(tmp_path, monkeypatch):
    """os._exit leaves nothing but the number of the task that was being stepped."""
    (tmp_path / "leaving.py").write_text(
        "import gymnasium, os\n"
        "from envs.suites.toy import Constant\n"
        "class Leaving(Constant):\n"
        "    def step(self, action):\n"
        "        if self.np_random.random() < 0.02: os._exit(3)\n"
        "        return super().step(action)\n"
        "gymnasium.register('Leaving-v0', Leaving); gymnasium.register('Calm-v0', Constant)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = toy_config("gym/leaving:Leaving-v0,Calm-v0", **RAY_TOY)
    with (tmp_path / "config.yaml").open("w") as file:
        file.write(dump_yaml(config))
    command = [sys.executable, "launch.py", "train", str(tmp_path / "config.yaml"), "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        line = next((line for line in process.stdout if "failed in runner" in line), "")
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert line.startswith(
        "warning: Leaving-v0 failed in runner 1: the runner's process ended while an environment of this task was stepped"
    )


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 99])
def test_a_runner_that_dies_while_it_starts(tmp_path, monkeypatch, deaths):
    """Once, and Ray starts it again; each time, and one sentence says so."""
    (tmp_path / "dying.py").write_text(
        "import gymnasium, os, pathlib, sys\n"
        "from envs.suites.toy import Constant\n"
        "gymnasium.register('Dying-v0', Constant)\n"
        f"died = pathlib.Path({str(tmp_path / 'died')!r})\n"
        f"if 'default_worker' in sys.argv[0] and (n := len(died.read_text()) if died.exists() else 0) < {deaths}:\n"
        "    died.write_text('x' * (n + 1))\n"
        "    os._exit(3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    command = [sys.executable, "launch.py", "train", "toy", "--suite.name", "gym/dying:Dying-v0", "--run-dir", str(tmp_path / "run")]
    command += ["--num-env-runners", "1", "--total-frames", "2000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == (0 if deaths == 1 else 2), ended.stdout + ended.stderr
    said = r"^error: a runner does not start: its process ended \d times before it answered\n\Z"
    assert deaths == 1 or re.search(said, ended.stderr, re.M)


@pytest.mark.slow
def test_a_runner_that_hangs_while_it_starts(tmp_path, monkeypatch):
    """As a task does that waits for a licence or for a file server when it is imported; both runners hold the cores that they wait with."""
    (tmp_path / "hanging.py").write_text(
        "import gymnasium, sys, time\n"
        "from envs.suites.toy import Constant\n"
        "gymnasium.register('Hanging-v0', Constant)\n"
        "if 'default_worker' in sys.argv[0]:\n"
        "    time.sleep(1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    code = "import sys; from mtrl.distributed import start; from mtrl.cli import dispatch; start.STUCK_SECONDS = 15; dispatch.entry_point()"
    options = ["toy", "--suite.name", "gym/hanging:Hanging-v0", "--num-env-runners", "2", "--run-dir", str(tmp_path / "run")]
    ended = subprocess.run([sys.executable, "-c", code, "train", *options], capture_output=True, text=True, timeout=200)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "error: a runner does not start: its process, which has the cores it needs, was not ready within 15 s" in ended.stderr


def test_a_runner_that_cannot_live_ends_the_run():
    """It is counted from one sign of life to the next; what Ray says of its death is in the message."""
    source = RaySource(None, None, rollouts_in_flight=1, deaths_allowed=2)
    for _ in range(2):
        source._count_death(1, RayActorError(error_msg="No module named 'simulator'"))
        source._count_death(2, RayActorError())
    del source._deaths[2]  # an unroll came
    source._count_death(2, RayActorError())
    with pytest.raises(
        RunnerLostError, match=r"runner 1 died 3 times without an unroll in between; the last time: .*No module named 'simulator'"
    ):
        source._count_death(1, RayActorError(error_msg="No module named 'simulator'"))


class Answers:
    """Stands for RLlib's group of runners: gives the answers that it is told to give."""

    def __init__(self, *values):
        self._worker_manager, self.values = self, list(values)

    def fetch_ready_async_reqs(self, **_):
        values, self.values = self.values, []
        return [SimpleNamespace(actor_id=1, ok=not isinstance(value, Exception), get=lambda value=value: value) for value in values]


LOST_OBJECT = ObjectLostError("f" * 56, "", "")


@pytest.mark.parametrize(
    ("answer", "lost", "reason"), [(RayActorError(), 1, "died, and is started again"), (LOST_OBJECT, 1, "lost with the node")]
)
def test_a_runner_that_fails_is_asked_again_for_all_that_it_was_asked_for(answer, lost, reason):
    """With the first error RLlib forgets a runner's other requests, which are never answered."""
    source = RaySource(None, None, rollouts_in_flight=2)
    source._group = Answers(answer)
    source._sent[1].extend([time.monotonic()] * 2)
    assert source._fetch() == [] and source._waiting(1) == 0
    assert source.lost == lost and [fault.reason for fault in source.faults() if reason in fault.reason]


def test_a_runner_that_hangs_outside_of_environments_ends_the_run():
    """Each hang is one lost unroll and one death, whatever the process says when it is back."""
    source = RaySource(None, None, rollouts_in_flight=1, deaths_allowed=2)
    for _ in range(2):
        source._group = Answers(RayActorError(), SourceFault(1, None, "an unroll took more than 300 s", "", lost_unroll=False))
        source._fetch()
    assert source.lost == 2
    source._group = Answers(RayActorError())
    with pytest.raises(RunnerLostError, match="died 3 times"):
        source._fetch()


def test_a_run_without_a_runner_that_comes_back_ends():
    """As where its node has no disk left, on which Ray gives up at once."""
    algorithm = built()
    trainer = algorithm.trainer
    try:
        steps_until(trainer, lambda said: trainer.updates >= 3)
        (actor,) = algorithm._runners()
        ray.kill(actor, no_restart=True)
        with pytest.raises(RunnerLostError, match="no runner is left; the last one, 1, does not come back"):
            steps_until(trainer, lambda said: False, seconds=60)
    finally:
        algorithm.stop()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), pytest.param(torch.AcceleratorError("CUDA error"), marks=pytest.mark.slow)]
)
def test_what_a_node_refuses_costs_a_process_and_not_the_run(error):
    """An error of the system is not one of the code: the next process may be on another node."""

    def break_it(runner):
        def full(*_):
            raise error

        runner._sample = full

    algorithm = built()
    trainer = algorithm.trainer
    try:
        steps_until(trainer, lambda said: trainer.updates >= 3)
        algorithm.env_runner_group.foreach_env_runner(break_it, local_env_runner=False)
        steps_until(trainer, lambda said: any("runner 1: died, and is started again" in message for message in said))
        updates = trainer.updates
        steps_until(trainer, lambda said: trainer.updates > updates + 3)
        assert trainer._source.lost == 1
    finally:
        algorithm.stop()


def test_a_run_ends_without_its_hanging_runners():
    algorithm = built("chaos/toy/three?hang=1", faults__unroll_seconds=1000.0)
    algorithm.trainer.step(2.0)  # asks for an unroll that does not end
    time.sleep(8)
    before = time.monotonic()
    algorithm.stop()
    assert time.monotonic() - before < 20


def test_an_error_with_a_constructor_of_its_own_reaches_the_driver():
    class OddError(Exception):
        def __init__(self, code, *, text):
            super().__init__(text)

    failure = pickle.loads(pickle.dumps(Failure(portable(OddError(3, text="why")), "its traceback")))
    assert "OddError: why" in str(failure.error)


def test_a_run_in_which_every_task_fails_ends_with_the_first_traceback():
    algorithm = built("chaos/toy/three?raise=1")
    try:
        with pytest.raises(TasksFailedError, match=r"every task fails; the first traceback:\nTraceback [^$]*chaos"):
            steps_until(algorithm.trainer, lambda said: False)
    finally:
        algorithm.stop()


def test_environments_that_raise_cost_their_steps_and_no_runner():
    algorithm = built("chaos/toy/three?raise=0.01")
    trainer = algorithm.trainer
    try:
        steps_until(trainer, lambda said: trainer.quarantine.faults.sum() > 50)
        assert not trainer.quarantine.out.any() and trainer._source.lost == 0
        assert (trainer.statistics.episodes > 0).all()
    finally:
        algorithm.stop()


def test_a_hanging_environment_is_ended_with_its_stack_and_left_out():
    algorithm = built("chaos/toy/three?hang=1&only=cue", faults__unroll_seconds=2.0, faults__budget=1, faults__retry_seconds=1000.0)
    trainer = algorithm.trainer
    try:
        said = steps_until(trainer, lambda said: trainer.updates >= 10)
        report = next(message for message in said if message.startswith("cue failed in runner 1: an unroll took more than 2 s"))
        assert "chaos.py" in report and "in _fail" in report  # where it hung
        assert any("cue is left out for 1000 s" in message for message in said)
        assert trainer.statistics.frames[2] == 0 and (trainer.statistics.frames[:2] > 0).all()
        assert trainer._source.lost >= 1
    finally:
        algorithm.stop()


def test_rllibs_users_hear_of_failing_tasks(caplog):
    """Those who call `train()`, by themselves or through Tune, and never the trainer's own methods."""
    algorithm = built("chaos/toy/three?raise=1&only=cue", faults__budget=1, faults__retry_seconds=1000.0)
    said: list[str] = []
    try:
        end = time.monotonic() + 90
        while not any("cue is left out for 1000 s" in message for message in said):
            assert time.monotonic() < end, said
            result = algorithm.train()
            assert isinstance(result["messages"], list)
            said += result["messages"]
            assert algorithm.trainer.messages() == [], "nothing is kept besides"
    finally:
        algorithm.stop()
    logged = [record.getMessage() for record in caplog.records if record.name == "mtrl" and record.levelname == "WARNING"]
    assert logged == said


def test_environments_that_cannot_be_replaced_are_built_anew():
    """What EnvPool's tasks do when one returns what is no number: the whole runner's environments begin again."""

    def poison(runner):
        tasks = runner._collector._tasks
        step = tasks._backend.step

        def poisoned(counts, actions):
            tasks._backend.step = step
            stepped = step(counts, actions)
            return stepped._replace(rewards=np.full_like(stepped.rewards, np.inf))

        tasks._backend.step = poisoned

    algorithm = built()
    trainer = algorithm.trainer
    try:
        steps_until(trainer, lambda said: trainer.updates >= 5)
        algorithm.env_runner_group.foreach_env_runner(poison, local_env_runner=False)
        said = steps_until(trainer, lambda said: any("the reward is not finite: inf" in message for message in said))
        assert any("corridor failed in runner 1" in message for message in said)
        updates = trainer.updates
        steps_until(trainer, lambda said: trainer.updates > updates + 10)
        assert trainer._source.lost == 1
    finally:
        algorithm.stop()


def test_what_holds_the_weights_is_started_again():
    algorithm = built()
    trainer = algorithm.trainer
    try:
        steps_until(trainer, lambda said: trainer.updates >= 5)
        ray.kill(algorithm._server, no_restart=False)
        version = trainer.updates
        steps_until(trainer, lambda said: trainer._versions._last[1] > version)
        # A runner that begins only now takes a stream of random numbers that none has had.
        assert ray.get(algorithm._server.register.remote(1)) >= 200_000, "no stream of random numbers twice"
    finally:
        algorithm.stop()


@pytest.mark.slow
def test_a_short_chaos(monkeypatch, capsys):
    monkeypatch.setattr(bench_chaos, "KILL_SECONDS", 4.0)
    monkeypatch.setattr(bench_chaos, "RAISE", 0.01)  # a busy machine gets through few steps
    config = override(load_config("configs/toy.yaml"), {"env_runners.num_env_runners": 1, "checkpoints.every_seconds": 2.0})
    alone, disturbed = bench_chaos.chaos(config, minutes=0.2)
    assert (alone.kills, alone.faults, alone.lost) == (0, 0, 0) and disturbed.kills >= 1
    assert disturbed.lost >= 1 and disturbed.faults >= 1 and disturbed.frames > 500
    assert "speed when disturbed" in capsys.readouterr().out
