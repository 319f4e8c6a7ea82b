"""Tasks together and alone: equal budgets, differences paired by seed, and the frame from which on a task is behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import toy_config

from envs import SuiteError, make_suite, single_task
from mtrl.benchmark.alone import EQUAL_SHARES, behind_since, compare_task, plans_alone
from mtrl.cli.dispatch import main
from mtrl.config import override
from mtrl.dashboard.alone import write_alone_page
from mtrl.dashboard.runs import Run


@pytest.mark.parametrize(
    ("suite", "place", "name"),
    [
        ("toy/three", 1, "toy/constant"),
        ("minigrid/mt3", 2, "minigrid/LavaGapS7"),
        ("context/cartpole:length=0.5,1+rollin", 1, "context/cartpole:length=1.0"),
        ("gym/CartPole-v1,CartPole-v0?high=200", 0, "gym/CartPole-v1?high=200"),
        ("toy/three+minigrid/mt3", 3, "minigrid/DoorKey"),
        ("metaworld/mt10?reward=v1", 0, "metaworld/reach?reward=v1"),
    ],
)
def test_a_task_of_a_suite_has_a_suite_of_its_own(suite, place, name):
    whole = make_suite(suite)
    alone = make_suite(single_task(whole, place))
    assert alone.names == (whole.names[place],), name
    assert (alone.tasks[0].low, alone.tasks[0].high, alone.tasks[0].context) == (
        whole.tasks[place].low,
        whole.tasks[place].high,
        whole.tasks[place].context,
    )


def test_a_task_that_no_name_makes_is_refused():
    with pytest.raises(SuiteError, match="has no suite of its own"):
        single_task(make_suite("chaos/toy/three?raise=0.1"), 0)


def test_alone_a_task_has_its_part_of_frames_and_slots():
    config = toy_config(total_frames=9000, env_runners__slots=12, curriculum__scheduler="fixed")
    config = config.model_copy(update={"curriculum": config.curriculum.model_copy(update={"options": {"weights": {"cue": 2.0}}})})
    plans = plans_alone(config, make_suite("toy/three"))
    assert {task: plan.suite.name for task, plan in plans.items()} == {name: f"toy/{name}" for name in ("corridor", "constant", "cue")}
    for plan in plans.values():
        assert (plan.total_frames, plan.env_runners.slots, plan.curriculum.scheduler) == (3000, 4, "uniform")
    whole = plans_alone(config, make_suite("toy/three"), full_batches=True)
    assert whole["cue"].env_runners.slots == 12


def test_alone_a_task_with_an_expert_of_its_own_has_one():
    config = toy_config(model__gate="one_per_task", model__experts=3, model__orthogonal=False)
    assert {plan.model.experts for plan in plans_alone(config, make_suite("toy/three")).values()} == {1}


def run_of(scores: list[float], frames: list[float], conflict: float = np.nan) -> Run:
    rows = np.arange(1.0, len(scores) + 1)
    columns = {"tasks/a/frames": np.array(frames), "tasks/a/score": np.array(scores), "summary/frames": 2 * rows}
    columns |= {"tasks/a/gradient_conflict": np.full(len(scores), conflict), "learner/entropy": rows, "tasks/a/entropy": 0.1 * rows}
    return Run(Path("run"), columns=columns)


def test_a_task_is_behind_from_the_last_time_on_that_it_was_not():
    """Alone the score rises by .1 every 10 frames; together it does so until frame 50 and stands still from there on."""
    frames = [10.0 * k for k in range(11)]
    alone = run_of([k / 10 for k in range(11)], frames)
    together = run_of([min(k, 5) / 10 for k in range(11)], frames)
    assert behind_since("a", [together], [alone]) == pytest.approx(60, abs=1)
    assert behind_since("a", [alone], [together]) is None
    late = run_of([0.0] * 10 + [1.0], frames)  # behind for long, and there at the end
    assert behind_since("a", [late], [alone]) is None


def test_differences_are_paired_by_seed():
    frames = [0.0, 10.0]
    together = [run_of([0.0, score], frames, 0.5) for score in (0.1, 0.5, 0.9)]
    alone = [run_of([0.0, score], frames) for score in (0.2, 0.6, 1.0)]
    found = compare_task("a", together, alone)
    assert found.difference.value == pytest.approx(-0.1) and found.difference.high - found.difference.low < 1e-6
    assert (found.conflict, found.entropy_together, found.entropy_alone) == (0.5, pytest.approx(0.2), 2.0)
    unknown = compare_task("a", [run_of([np.nan, np.nan], frames)] * 2, alone[:2])
    assert unknown.together.text() == unknown.difference.text() == "–" and unknown.alone.text() == "0.40 (-2.14 – 2.94)"


def test_the_page_shows_every_task(tmp_path):
    runs = [run_of([0.0, 0.5, 0.7], [0.0, 5.0, 10.0])]
    found = compare_task("a", runs, runs)
    write_alone_page(tmp_path / "alone.html", "name<b>", [found._asdict()], runs, {"a": runs})
    page = (tmp_path / "alone.html").read_text()
    assert "name&lt;b&gt;" in page and "<td>a</td>" in page and "Score together less score alone" in page


def test_all_tasks_have_equal_shares_together():
    config = toy_config(curriculum__scheduler="plr", curriculum__options={"temperature": 0.2}, curriculum__boost_forgotten=3.0)
    curriculum = override(config, EQUAL_SHARES).curriculum
    assert (curriculum.scheduler, curriculum.options, curriculum.boost_forgotten) == ("uniform", {}, 1.0)


@pytest.mark.slow
def test_the_command_goes_on_with_what_is_there(tmp_path, capsys):
    options = ["toy", "--seeds", "1", "--total-frames", "3000", "--num-env-runners", "0", "--run-dir", str(tmp_path)]
    assert main(["compare-alone", *options]) == 0
    first = capsys.readouterr().out
    assert all(f"{task}/seed-0: " in first for task in ("corridor", "constant", "cue", "together")) and (tmp_path / "alone.html").exists()
    kept = {path: path.read_bytes() for path in tmp_path.glob("*/seed-0/metrics.jsonl")}
    assert len(kept) == 4
    assert main(["compare-alone", *options]) == 0
    assert all(path.read_bytes() == content for path, content in kept.items())
