"""Evaluation: what is played depends on the seeds alone, nothing is played twice, and videos never cost an evaluation."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest

from envs import Episode, UnknownTaskError, make_suite, make_vector
from envs.vector import Arrays
from mtrl.cli.dispatch import main
from mtrl.cli.tables import print_results
from mtrl.evaluation import jobs as jobs_module
from mtrl.evaluation.jobs import Job, in_processes, in_this_process, play, play_job
from mtrl.evaluation.policy import load_actor
from mtrl.evaluation.results import read_results
from mtrl.evaluation.runner import evaluate_run
from mtrl.evaluation.video import Moment, beside, record_policy
from mtrl.rollouts.inference import Inference
from mtrl.storage.checkpoint import load_policy, save_policy
from mtrl.storage.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
RANDOM = "Empty-Random-6x6"  # its start is drawn anew for each episode
SUITE = f"minigrid/{RANDOM},DistShift1,DoorKey-5x5"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "trained"
    options = ["--suite.name", SUITE, "--total-frames", "2000", "--num-env-runners", "0", "--env-runners.slots", "12"]
    assert main(["train", "minigrid_mt3", "--run-dir", str(directory), *options]) == 0
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory.open(Path(shutil.copytree(trained, tmp_path / "run", symlinks=True)))


class Counting:
    """Plays in this process and remembers what; stops with Ctrl-C after some jobs."""

    def __init__(self, stop_after: int | None = None):
        self.played: list[Job] = []
        self._stop_after = stop_after

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
        for job in jobs:
            if len(self.played) == self._stop_after:
                raise KeyboardInterrupt
            yield job, play_job(job)
            self.played.append(job)


def episodes(results: dict[str, Any], task: int | None = None) -> list[dict[str, Any]]:
    return [row for row in results.episodes if task is None or row["task_id"] == task]


def unfinished(run: RunDirectory) -> list[Path]:
    return sorted(run.path.glob("evaluation/*/unfinished-*/*.json"))


def wait_for_first_job(run: RunDirectory, process: subprocess.Popen[str]) -> None:
    """Until something has been kept. Python's imports alone may take a minute on a busy machine."""
    end = time.monotonic() + 180
    while not unfinished(run):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def all_gone(group: int) -> bool:
    """Whether a process group ends within seconds."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_seeds_decide_and_nothing_else(run: RunDirectory) -> None:
    first = evaluate_run(run, episodes=14)
    again = evaluate_run(run, episodes=14, players=in_processes(2))
    assert episodes(first) == episodes(again) and first.score_mean == again.score_mean
    assert episodes(evaluate_run(run, episodes=14, seed=1)) != episodes(first)
    assert episodes(evaluate_run(run, episodes=14, actions="greedy")) != episodes(first)
    assert episodes(evaluate_run(run, episodes=14, actions="sampled")) == episodes(first)  # MiniGrid's protocol
    # Numbers are those of the task's episodes, and each is there once.
    assert [row["slot"] for row in episodes(first, 0)] == list(range(14))
    fewer = evaluate_run(run, episodes=10)
    assert episodes(fewer, 1) == episodes(first, 1)[:10]


def test_part_of_the_tasks_keeps_their_indices(run: RunDirectory) -> None:
    whole = evaluate_run(run, episodes=3)
    part = evaluate_run(run, episodes=3, tasks=["DoorKey-5x5", RANDOM])
    assert list(part.tasks) == [RANDOM, "DoorKey-5x5"] and part.changed["tasks"] == f"{RANDOM}, DoorKey-5x5"
    assert episodes(part, 2) == episodes(whole, 2) and episodes(part, 0) == episodes(whole, 0) and not episodes(part, 1)
    with pytest.raises(UnknownTaskError, match="did you mean DoorKey-5x5"):
        evaluate_run(run, tasks=["DoorKey-5x6"])


def test_results_by_other_rules_replace_only_their_like(run: RunDirectory) -> None:
    """Those of a background evaluation with fewer episodes stay when a person plays one task, or with another seed."""
    by_training = evaluate_run(run, episodes=2, seed=5)
    file = run.path / by_training.file
    for options in ({"tasks": ["DoorKey-5x5"]}, {"seed": 6}, {}):
        other = evaluate_run(run, episodes=2, **{"seed": 5, "tasks": [RANDOM], **options})
        assert run.path / other.file != file
    assert read_results(file).tasks == by_training.tasks
    assert evaluate_run(run, episodes=2, seed=5).file == by_training.file


def test_its_own_tasks_with_other_options_are_played_with_them(tmp_path: Path) -> None:
    """Two tasks, of which the second is played by another range of returns."""
    options = ["--suite.name", "gym/CartPole-v0,CartPole-v1", "--total-frames", "500", "--num-env-runners", "0"]
    assert main(["train", "toy", "--run-dir", str(tmp_path / "run"), *options]) == 0
    run = RunDirectory.open(tmp_path / "run")
    plain = evaluate_run(run, suite="gym/CartPole-v1", episodes=3)
    assert "suite" not in plain.changed
    other = evaluate_run(run, suite="gym/CartPole-v1?low=0&high=5000", episodes=3)
    assert other.changed["suite"] == "gym/CartPole-v1?low=0&high=5000" and list(other.tasks) == ["CartPole-v1"]
    assert [row["episode_return"] for row in episodes(other)] == [row["episode_return"] for row in episodes(plain)]
    assert other.score_mean.value == pytest.approx(other.tasks["CartPole-v1"].return_mean / 5000)


def test_another_policy_in_the_same_folder_is_played(run: RunDirectory, tmp_path: Path) -> None:
    """As when a run is deleted and trained again within one process."""
    (policy,) = run.policies.glob("[0-9]*")
    weights, description = load_policy(policy)
    played = []
    for scale in (1.0, -1.0):
        shutil.rmtree(tmp_path / "policy", ignore_errors=True)
        changed = {name: (scale * tensor).numpy() for name, tensor in weights.items()}
        save_policy(tmp_path / "policy", 7, changed, description, keep=[7])
        sha = load_policy(tmp_path / "policy" / "7")[1]["weights_sha256"]
        played.append(play_job(Job(tmp_path / "policy" / "7", 0, 0, 2, "envpool", 0, True, weights_sha256=sha)))
    assert played[0] != played[1]


def test_what_was_evaluated_is_forgotten_within_long_episodes(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = evaluate_run(run, episodes=3)
    monkeypatch.setattr("mtrl.evaluation.jobs.FORGET_STEPS", 7)
    begun = []
    start = Inference.start
    monkeypatch.setattr(Inference, "start", lambda self, *given: begun.append(given) or start(self, *given))
    assert episodes(evaluate_run(run, episodes=3)) == episodes(before)
    assert len(begun) > 3 * 10


def test_goes_on_where_it_was_interrupted(run: RunDirectory) -> None:
    whole = evaluate_run(run, episodes=12)
    assert unfinished(run) == []
    first, second = Counting(stop_after=4), Counting()
    told: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, episodes=12, players=first)
    assert len(unfinished(run)) == 4
    results = evaluate_run(run, episodes=12, players=second, progress=lambda done, total: told.append((done, total)))
    assert len(first.played) == 4 and len(second.played) == 2 and not set(first.played) & set(second.played)
    assert told[0] == (10 + 2 + 10 + 2, 36) and told[-1] == (36, 36)
    assert episodes(results) == episodes(whole)
    assert unfinished(run) == []


def test_what_was_kept_of_something_else_is_not_used(run: RunDirectory) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, episodes=4, players=Counting(stop_after=2))
    other = Counting()
    evaluate_run(run, episodes=4, seed=1, players=other)
    assert len(other.played) == 3
    damaged = unfinished(run)[0]
    damaged.write_text(damaged.read_text()[:-5])
    rest = Counting()
    evaluate_run(run, episodes=4, players=rest)
    assert len(rest.played) == 2  # the damaged one, and the one never played


def test_results_by_the_protocol_are_not_replaced_by_others(run: RunDirectory) -> None:
    by_protocol = evaluate_run(run)
    others = evaluate_run(run, episodes=2)
    assert by_protocol.file != others.file and others.changed == {"episodes": 2}
    greedy = evaluate_run(run, actions="greedy")
    assert greedy.file == others.file and greedy.changed == {"actions": "greedy"} and not greedy.sampled_actions
    kept = json.loads((run.path / by_protocol.file).read_text())
    assert kept["protocol"] == "minigrid-v1" and kept["changed"] == {} and len(kept["episodes"]) == 75
    assert kept["policy"]["weights_sha256"] == json.loads(next(run.policies.glob("*/policy.json")).read_text())["values"]["weights_sha256"]


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
def test_environments_have_numbers(backend: Any) -> None:
    suite = make_suite(f"minigrid/{RANDOM}")
    all_six = make_vector(suite, 6, backend, seed=3).reset()["image"]
    last_two = make_vector(suite, 2, backend, seed=3, first_number=4).reset()["image"]
    assert np.array_equal(all_six[4:], last_two) and not np.array_equal(all_six[:2], last_two)


def test_evaluation_on_ray_plays_the_same(run: RunDirectory) -> None:
    ray = pytest.importorskip("ray")
    from mtrl.distributed.evaluation import play_on_ray

    alone = evaluate_run(run, episodes=2)
    try:
        assert episodes(evaluate_run(run, episodes=2, players=play_on_ray)) == episodes(alone)
    finally:
        ray.shutdown()


def test_control_c_in_the_middle(run: RunDirectory) -> None:
    episodes_each, jobs = 60, 18  # enough that it is not over before the signal comes
    whole = evaluate_run(run, episodes=episodes_each, players=in_processes(2))
    command = [sys.executable, "launch.py", "evaluate", str(run.path), "--episodes", str(episodes_each), "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_first_job(run, process)
    for _ in range(2):  # a terminal sends it to the workers, too; `timeout` sends it twice
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and said.count("\n") == 1 and "the same command goes on from there" in said
    assert all_gone(process.pid)
    kept = len(unfinished(run))
    assert 0 < kept < jobs
    rest = Counting()
    assert episodes(evaluate_run(run, episodes=episodes_each, players=rest)) == episodes(whole)
    assert len(rest.played) == jobs - kept


def test_workers_end_with_a_parent_that_was_killed(run: RunDirectory) -> None:
    command = [sys.executable, "launch.py", "evaluate", str(run.path), "--episodes", "2000", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for_first_job(run, process)
    process.kill()
    process.wait()
    assert all_gone(process.pid)


def test_film_shows_a_whole_episode(run: RunDirectory, tmp_path: Path) -> None:
    policy = next(run.policies.glob("[0-9]*"))
    problems: list[str] = []
    files = record_policy(policy, tmp_path, tasks=[RANDOM], sampled=True, report=problems.append)
    assert files == {RANDOM: f"{RANDOM}.mp4"} and problems == []
    frames = [frame for frame in imageio.get_reader(tmp_path / files[RANDOM])]  # not list(…): a reader says that its length is infinite
    assert frames[0].shape[0] == 384 and frames[0].shape[1] > 384 + 200
    # One of the start, one for each step, and the last one for a second; no episode here has more than 144 steps.
    assert 2 + 10 <= len(frames) <= 1 + 144 + 10
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 100


def test_panel_is_drawn_for_any_number_of_experts() -> None:
    picture = np.full((100, 100, 3), 128, np.uint8)
    for weights in ([0.5], [1.0, -0.3, 0.0], list(np.linspace(-1, 1, 16))):
        drawn = beside(picture, "a" * 40, Moment(3, -1.0, 2.0, True, False), weights)
        assert drawn.shape == (384, 384 + 288, 3) and (drawn[:, 400:] != 255).any()


def test_tasks_that_cannot_be_drawn_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "toy"
    assert main(["train", "toy", "--run-dir", str(directory), "--total-frames", "600", "--num-env-runners", "0"]) == 0
    problems: list[str] = []
    policy = next((directory / "policy").glob("[0-9]*"))
    assert record_policy(policy, tmp_path / "video", sampled=True, report=problems.append) == {}
    assert len(problems) == len(make_suite("toy/three").names) and all("does not know how to draw itself" in text for text in problems)
    assert list((tmp_path / "video").iterdir()) == []


@pytest.mark.slow
def test_robot_arm_is_filmed_or_says_what_is_missing(tmp_path: Path) -> None:
    directory = tmp_path / "arm"
    options = ["--suite.name", "metaworld/reach", "--env-runners.slots", "2", "--total-frames", "100", "--num-env-runners", "0"]
    assert main(["train", "metaworld_mt10", "--run-dir", str(directory), *options]) == 0
    # In a process of its own: MuJoCo chooses how to draw when it is imported. A frame per second, since drawing takes most of the time.
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
    program = "import sys, mtrl.cli, mtrl.evaluation.video as v; v.MOST_FRAMES_PER_SECOND = 1; sys.exit(mtrl.cli.main(sys.argv[1:]))"
    options = ["evaluate", str(directory), "--episodes", "1", "--backend", "envpool", "--video"]
    command = [sys.executable, "-c", program, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    video = next(directory.glob("evaluation/*/video/reach.mp4"), None)
    if video is None:
        assert "MuJoCo found no way to draw without a display" in done.stderr
    else:
        assert "videos: " in done.stdout
        frame = imageio.get_reader(video).get_data(3)
        assert frame[:, :384].std() > 10  # a scene, not a blank


def test_a_policy_can_be_shown_something_else(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, actor = load_actor(next(run.policies.glob("[0-9]*")))
    there: list[np.ndarray] = []
    acted_on: list[np.ndarray] = []

    def nothing(obs: Arrays) -> Arrays:
        there.append(obs["image"])
        return {name: np.zeros_like(array) for name, array in obs.items()}

    def act(inference: Inference, obs: Arrays) -> tuple[np.ndarray, np.ndarray]:
        acted_on.append(obs["image"])
        return really(inference, obs)

    really = Inference.act
    monkeypatch.setattr(Inference, "act", act)
    episodes = play(actor, suite, suite.index(RANDOM), 5, backend="gymnasium", seed=0, sampled=True, shown=nothing)
    assert len(episodes) == 5 and len(acted_on) == len(there) >= max(episode.length for episode in episodes)
    assert np.any(there) and not np.any([image.any() for image in acted_on])


def test_players_in_this_process_follow_the_order(run: RunDirectory) -> None:
    jobs = [Job(next(run.policies.glob("[0-9]*")), task, 0, 1, "gymnasium", 0, True) for task in (2, 0)]
    assert [job.task for job, _ in in_this_process(jobs)] == [2, 0]


class Survival(gymnasium.Env):
    """Every second environment ends after 5 steps with nothing; the others earn 1 at step 100 and never end."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    made = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Survival.made += 1
        self.short, self.steps = Survival.made % 2 == 0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), float(self.steps == 100 and not self.short), self.short and self.steps >= 5, False, {}


def test_episodes_without_an_end_count_as_far_as_they_came(tmp_path, monkeypatch, capsys):
    """Dropped, they would leave only the short ones, whose score is 0."""
    gymnasium.register("Survival-v0", Survival)
    monkeypatch.setattr(jobs_module, "EPISODE_STEPS", 150)
    run = tmp_path / "run"
    options = ["--suite.name", "gym/Survival-v0?low=0&high=1", "--total-frames", "500", "--num-env-runners", "0"]
    assert main(["train", "toy", "--run-dir", str(run), *options]) == 0
    Survival.made = 0
    results = evaluate_run(RunDirectory.open(run), episodes=10)
    (task,) = results.tasks.values()
    assert (task.n, task.endless, task.score.value) == (10, 5, 0.5)
    capsys.readouterr()
    print_results(results, run)
    assert "5 of 10 episodes of Survival-v0 had not ended" in " ".join(capsys.readouterr().out.split())
    assert read_results(run / results.file).tasks == results.tasks
