"""Curricula of Syllabus as schedulers: told of every episode, resumable, and refused in a sentence where they cannot be used."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers import Silent, toy_config

from envs import make_suite
from mtrl.config import ConfigError, CurriculumConfig
from mtrl.curriculum import make_scheduler
from mtrl.curriculum.syllabus import _spread
from mtrl.rollouts.collector import Episode
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.explain import explain_run
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.task_statistics import TaskStatistics
from mtrl.training.trainer import build_trainer

with np.errstate():  # which it changes for the whole process
    curricula = pytest.importorskip("syllabus.curricula")

NAMES = make_suite("toy/three").names
NAME = "mtrl.curriculum.syllabus:Syllabus"


def scheduler(curriculum: str, **arguments):
    return make_scheduler(CurriculumConfig(scheduler=NAME, options={"curriculum": curriculum, "arguments": arguments}), NAMES)


def history(stats: TaskStatistics, rng: np.random.Generator, steps: int):
    """Task 0 is learned, task 1 stands still at one half, task 2 is never solved."""
    for step in range(steps):
        for task, rate in enumerate((min(1.0, step / steps), 0.5, 0.0)):
            for _ in range(10):
                won = bool(rng.random() < rate)
                stats.add_episodes([Episode(task, 0, float(won), 10, won, True, False)])
        stats.add_frames(np.full(3, 100))
        yield stats.evidence()


def test_the_package_does_not_change_how_numpy_treats_errors():
    """In a process that imports it for the first time, since it is imported here already."""
    code = (
        "import numpy as np\n"
        "from mtrl.config import CurriculumConfig\nfrom mtrl.curriculum import make_scheduler\n"
        f"before = np.geterr()\nmake_scheduler(CurriculumConfig(scheduler={NAME!r}), ['a', 'b'])\nassert np.geterr() == before"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_episodes_are_passed_on_with_their_successes():
    assert list(_spread(3, 10)) == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1] and list(_spread(0, 2)) == [0, 0] and list(_spread(2, 2)) == [1, 1]
    subject, told = scheduler("OnlineLearningProgress"), []
    subject._curriculum.update_on_episode = lambda *episode: told.append(episode)
    stats = TaskStatistics(make_suite("toy/three"))
    for evidence in history(stats, np.random.default_rng(0), 5):
        subject.probabilities(evidence)
    assert [sum(episode[2] == task for episode in told) for task in range(3)] == [50, 50, 50]
    assert [sum(episode[3] for episode in told if episode[2] == task) for task in range(3)] == stats.success_sums.tolist()
    assert {episode[1] for episode in told} == {10}  # steps


def test_shares_are_those_of_the_curriculum_itself():
    """Beside a curriculum that is told of the same episodes by hand."""
    from syllabus.task_space import DiscreteTaskSpace

    subject = scheduler("OnlineLearningProgress", update_interval=30, ema_alpha=0.3)
    own = curricula.OnlineLearningProgress(DiscreteTaskSpace(3), update_interval=30, ema_alpha=0.3)
    stats, before = TaskStatistics(make_suite("toy/three")), np.zeros(3)
    for evidence in history(stats, np.random.default_rng(0), 40):
        shares = subject.probabilities(evidence)
        for task in range(3):
            for success in _spread(round(evidence.success_sums[task] - before[task]), 10):
                own.update_task_progress(task, success)
                own.update_on_episode(success, 10, task, success)
        before = evidence.success_sums.copy()
        np.testing.assert_allclose(shares, own._sample_distribution())
    assert shares[2] == pytest.approx(0.25 / 3)  # what is mixed in for a task that never succeeds


@pytest.mark.parametrize(
    ("curriculum", "arguments"),
    [("OnlineLearningProgress", {}), ("LearningProgress", {}), ("Learnability", {"sampling": "dist"}), ("DomainRandomization", {})],
)
def test_it_goes_on_from_its_state(curriculum, arguments):
    decisions = []
    for stop in (None, 20):
        subject, stats, taken = scheduler(curriculum, **arguments), TaskStatistics(make_suite("toy/three")), []
        for step, evidence in enumerate(history(stats, np.random.default_rng(1), 40)):
            if step == stop:
                state = subject.state_dict()
                subject = scheduler(curriculum, **arguments)
                subject.load_state_dict(state)
            taken.append(subject.probabilities(evidence))
        decisions.append(np.array(taken))
    np.testing.assert_array_equal(*decisions)
    assert decisions[0].sum(axis=1) == pytest.approx(1)
    # The task that cannot be solved gets the least, but from the one that knows nothing.
    last = decisions[0][-1]
    assert np.ptp(last) < 1e-9 if curriculum == "DomainRandomization" else last[2] < last[1] + 1e-9


def test_a_run_is_trained_resumed_and_explained(tmp_path):
    config = toy_config(curriculum__scheduler=NAME, total_frames=2000, env_runners__slots=12)
    directory, trainer = RunDirectory.create(tmp_path / "run", config), build_trainer(config)
    assert run_training(trainer, directory, Silent()) == 0
    longer = directory.config.model_copy(update={"total_frames": 4000})
    trainer = build_trainer(longer)
    assert resume(trainer, directory, Silent()) and run_training(trainer, RunDirectory(directory.path, longer), Silent()) == 0
    explanation = explain_run(directory)
    assert explanation.differing is None and explanation.decisions >= 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"curriculum": "OnlineLearningProgres"}, "did you mean OnlineLearningProgress"),
        ({"curriculum": "Constant"}, "Constant"),
        ({"curriculum": "PrioritizedLevelReplay"}, "PrioritizedLevelReplay"),
        ({"arguments": {"nothing": 1}}, "nothing"),
        ({"curiculum": "x"}, "curiculum"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(options, said):
    with pytest.raises(ConfigError) as caught:
        make_scheduler(CurriculumConfig(scheduler=NAME, options=options), NAMES)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
