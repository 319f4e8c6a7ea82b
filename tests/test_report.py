"""The report: from real runs, from broken ones, and from ones that mean harm."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrl.cli.dispatch import main
from mtrl.dashboard.aggregates import compare
from mtrl.dashboard.method_figures import improvements, interval_estimates, iqm_curves, profiles
from mtrl.dashboard.methods import methods_of
from mtrl.dashboard.overview import changes, differences, figures_of
from mtrl.dashboard.report import render, write_report
from mtrl.dashboard.runs import MAX_POINTS, Run, read_run
from mtrl.dashboard.task_figures import expert_usage, gradient_conflicts, task_curves, task_estimates
from mtrl.errors import UserError
from mtrl.evaluation.intervals import mean_over_tasks, score_interval
from mtrl.evaluation.results import EvaluationResults, TaskResult, write_results
from mtrl.evaluation.statistics import median_over_tasks
from mtrl.storage.layout import RunLayout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one experiment and another experiment, of which the first was evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    short = ["train", "toy", "--total-frames", "3000", "--report-seconds", "0.2"]
    changes = {"a": ["--seed", "0"], "b": ["--seed", "1"], "plain": ["--model.orthogonal", "false"]}
    for name, options in changes.items():
        assert main([*short, *options, "--run-dir", str(folder / name)]) == 0
    assert main(["evaluate", str(folder / "a")]) == 0
    return [folder / name for name in changes]


def test_the_command_writes_one_page_that_needs_no_network(runs, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert main(["report", *map(str, runs), "-o", str(output)]) == 0
    page = output.read_text()
    assert "plotly.js" in page
    assert not re.search(r"""<(script|link|img)[^>]+(src|href)=["'](https?:)?//""", page)
    own = re.sub(r"(?s)<script>.*?</script>", "", page)
    assert "not evaluated yet" in own
    assert "toy-v1" in own
    assert "model.orthogonal" in own
    for task in ("corridor", "constant", "cue"):
        assert task in own
    assert str(output) in capsys.readouterr().out


def test_seeds_are_a_band_and_another_experiment_is_not(runs):
    first, second, plain = (read_run(path) for path in runs)
    assert first.group == second.group != plain.group
    names = [name for name, _ in differences([first, second, plain])]
    assert names == ["model.orthogonal", "seed"]


def test_what_is_read_is_what_was_logged(runs):
    run = read_run(runs[0])
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert run.frames.tolist() == [line["summary/frames"] for line in lines]
    assert run.tasks == ["corridor", "constant", "cue"]
    assert run.hours[-1] == pytest.approx(lines[-1]["summary/hours"])
    assert lines[-1]["time"] - lines[0]["time"] < 3600 * run.hours[-1] < lines[-1]["time"] - lines[0]["time"] + 30
    assert not run.problems


def test_names_cannot_leave_their_place(tmp_path):
    evil = '"><script>alert(1)</script>'
    run = tmp_path / "run</title><script>alert(2)<"
    run.mkdir(parents=True)
    row = {"time": 1.0, "summary/frames": 5, f"tasks/{evil.replace('/', '')}/frames": 5, "summary/score_mean": 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (run / "config.yaml").write_text(json.dumps({"name": evil}))
    (run / "versions.json").write_text(json.dumps({evil: evil}))
    page = render([read_run(run), read_run(run)])
    assert "<script>alert" not in page


def test_a_missing_or_truncated_file_is_said_and_the_rest_shown(runs, tmp_path):
    run = tmp_path / "cut"
    run.mkdir()
    lines = (runs[0] / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines, lines[-1][:40]]))
    found = read_run(run)
    assert len(found.rows) == len(lines)
    assert "metrics.jsonl has 1 damaged line" in found.problems
    assert "config.yaml is missing" in found.problems
    assert "damaged line" in render([found])


def test_long_runs_are_thinned_to_what_a_curve_can_show(tmp_path):
    text = "".join(json.dumps({"time": float(i), "summary/frames": i}) + "\n" for i in range(5000))
    (tmp_path / "metrics.jsonl").write_text(text)
    run = read_run(tmp_path)
    assert len(run.rows) == MAX_POINTS
    assert run.frames[[0, -1]].tolist() == [0, 4999]


def test_time_between_a_stop_and_a_resumption_does_not_count(tmp_path):
    rows = [{"time": t, "summary/frames": i} for i, t in enumerate([0.0, 60.0, 90_000.0, 90_060.0])]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_run(tmp_path).hours[-1] == pytest.approx(120 / 3600)


def test_hours_of_former_versions_begin_at_the_start_and_go_on(tmp_path):
    # 500 frames at 50 frames/s before the first row; a row of an evaluation without hours; then rows of this version.
    rows = [{"time": 100.0, "summary/frames": 500, "summary/frames_per_second": 50.0}, {"time": 110.0, "summary/frames": 1000}]
    later = [{"time": 5000.0, "summary/frames": 1500, "summary/hours": 30 / 3600}, {"time": 5001.0, "summary/frames": 1500}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows + later)))
    assert (3600 * read_run(tmp_path).hours).tolist() == pytest.approx([10, 20, 30, 30])
    later = [row | {"summary/hours": hours / 3600} for row, hours in zip(later, (5, 6), strict=True)]  # resumed, it counts from 0
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows + later)))
    assert (3600 * read_run(tmp_path).hours).tolist() == pytest.approx([10, 20, 25, 26])


def test_evaluations_without_tasks_in_common_are_shown_and_not_compared(tmp_path):
    paths = [write_run(tmp_path / name, {"name": "toy", "x": name}, {10: {name: [0.0, 1.0]}}) for name in "ab"]
    runs = [read_run(path) for path in paths]
    assert compare(runs) == [] and "Newest evaluations" in render(runs)
    runs[0].evaluations = [dataclasses.replace(runs[0].evaluations[0], tasks={})]
    assert compare(runs) == [] and render(runs) and render(runs[:1])


def write_run(path: Path, config: dict[str, object], evaluations: dict[int, dict[str, list[float]]], tasks: str = "ab") -> Path:
    """A run as `train` and `evaluate` leave it behind: its experiment, two lines of metrics, and evaluations of the given scores."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"time": 10.0 * i, "summary/frames": 500 * i, **{f"tasks/{task}/frames": i for task in tasks}} for i in (1, 2)]
    (path / "metrics.jsonl").write_text("\n".join(json.dumps(row | {"summary/score_mean": 0.5}) for row in rows))
    (path / "versions.json").write_text("{}")
    for step, scores in evaluations.items():
        found = {}
        for task, values in scores.items():
            score = score_interval(np.array(values))
            found[task] = TaskResult(len(values), int(sum(values)), score, score, 0.0, 1.0)
        mean = mean_over_tasks([task.score for task in found.values()])
        results = EvaluationResults(
            protocol="toy-v1", changed={}, step=step, backend="native", sampled_actions=False, tasks=found, score_mean=mean
        )
        write_results(RunLayout(path).results(step), results)
    return path


def sweep_of(folder: Path, rate: float, scores: tuple[float, float], **more: object) -> list[Path]:
    base = {"name": "toy", "suite": {"name": "toy"}, "learner": {"actor": {"learning_rate": rate}}, **more}
    return [
        write_run(folder / f"seed-{seed}", base | {"seed": seed}, {1000: {task: [score, 1 - score, score] for task in "ab"}})
        for seed, score in enumerate(scores)
    ]


def titles(figures: list[go.Figure]) -> list[str]:
    return [figure.layout.title.text for figure in figures]


def test_two_sweeps_are_two_methods_named_after_what_differs(tmp_path):
    paths = sweep_of(tmp_path / "A-sweep", 0.001, (0.0, 0.0)) + sweep_of(tmp_path / "B-sweep", 0.0003, (1.0, 1.0))
    runs = write_report(paths, tmp_path / "page.html")
    assert [run.name for run in runs] == ["A-sweep/seed-0", "A-sweep/seed-1", "B-sweep/seed-0", "B-sweep/seed-1"]
    [comparison] = compare(runs)
    assert [method.name for method in comparison.methods] == ["learning_rate 0.001 (2 seeds)", "learning_rate 0.0003 (2 seeds)"]
    assert [method.mean.value for method in comparison.methods] == pytest.approx([1 / 3, 2 / 3])
    [figure] = [figure for figure in figures_of(runs) if figure.layout.title.text == "Mean score of training episodes"]
    assert {trace.name for trace in figure.data if trace.showlegend is not False} == {method.name for method in comparison.methods}
    # Experiments in too many of which fields differ: the folders name them.
    many = sweep_of(tmp_path / "C-sweep", 0.1, (0.5, 0.5), model={"experts": 3, "orthogonal": False, "hidden": 7})
    names = [method.name for method in compare([read_run(path) for path in paths[:2] + many])[0].methods]
    assert len(set(names)) == 2
    named = write_report([tmp_path / "A-sweep", tmp_path / "C-sweep"], tmp_path / "folders.html")
    assert [method.name for method in compare(named)[0].methods] == ["A-sweep (2 seeds)", "C-sweep (2 seeds)"]


def test_a_method_without_evaluations_keeps_its_row(tmp_path):
    paths = sweep_of(tmp_path / "A", 0.001, (0.0, 1.0))
    paths.append(write_run(tmp_path / "B", {"name": "toy", "learner": {"actor": {"learning_rate": 1}}}, {}))
    runs = [read_run(path) for path in paths]
    [comparison] = compare(runs)
    assert [method.not_evaluated for method in comparison.methods] == [0, 1] and comparison.methods[1].mean is None
    assert "1 of 3 runs has no evaluation." in comparison.remarks
    assert re.search(r"<tr><td>B</td><td>0 of 1</td>\s*<td>–</td><td>–</td><td>–</td>", render(runs))


def test_one_run_has_no_interval_and_unlike_evaluations_are_said(tmp_path):
    a = write_run(tmp_path / "a", {"name": "toy", "x": 1}, {150_000: {"a": [1.0] * 25}})
    b = write_run(tmp_path / "b", {"name": "toy", "x": 2}, {205_000: {"a": [1.0, 0.0, 0.0, 0.0, 1.0]}})
    runs = [read_run(path) for path in (a, b)]
    [comparison] = compare(runs)
    assert not any(figure.bounded for method in comparison.methods for figure in (method.mean, method.iqm, method.gap))
    assert comparison.methods[1].improvement is None, "one run says nothing about the next one"
    assert any("150,000 to 205,000 frames" in remark for remark in comparison.remarks)
    assert any("episodes of a task differs: 5 to 25" in remark for remark in comparison.remarks)


def test_runs_of_unlike_tasks_share_no_picture(tmp_path):
    paths = sweep_of(tmp_path / "A", 0.001, (0.0, 1.0))
    grid = {"name": "grid", "suite": {"name": "minigrid/mt3"}}
    paths += [write_run(tmp_path / f"grid-{i}", grid | {"seed": i}, {1000: {"c": [0.5, 1.0]}}, tasks="c") for i in range(2)]
    runs = write_report(paths, tmp_path / "page.html")
    assert [comparison.title for comparison in compare(runs)] == ["toy", "minigrid/mt3"]
    for suite, count in (("toy", 1), ("minigrid/mt3", 1)):
        [figure] = [figure for figure in figures_of(runs) if figure.layout.title.text == f"Mean score of training episodes, {suite}"]
        assert len([trace for trace in figure.data if trace.showlegend is not False]) == count
    assert "2 different sets of tasks" in (tmp_path / "page.html").read_text()


def test_evaluations_stand_at_the_frames_of_their_policies(tmp_path):
    # The metrics' rows, in which the results arrived, are at 500 and 1000 frames.
    run = read_run(write_run(tmp_path / "a", {"name": "toy"}, {120: {"a": [0.0, 1.0]}, 870: {"a": [1.0, 1.0]}}))
    figure = next(figure for figure in figures_of([run]) if figure.layout.title.text == "Mean score of evaluations")
    assert list(figure.data[0].x) == [120, 870] and list(figure.data[0].y) == [0.5, 1.0]
    assert figure.data[0].error_y.arrayminus[1] > 0, "two successes of two are no certainty"
    assert figure.data[0].mode == "lines+markers"


@pytest.mark.parametrize("bands", ["range", "interval"])
def test_bands_say_what_they_are(tmp_path, bands):
    runs = [read_run(path) for path in sweep_of(tmp_path / "A", 0.001, (0.0, 1.0))]
    for run, shift in zip(runs, (0.0, 0.2), strict=True):
        run.columns["summary/score_mean"] = run.columns["summary/score_mean"] + shift
    figure = next(figure for figure in figures_of(runs, bands) if figure.layout.title.text == "Mean score of training episodes")
    said = figure.layout.title.subtitle.text
    assert ("lowest to highest" in said) == (bands == "range") and ("95 % interval" in said) == (bands == "interval")
    high, low, middle = (np.array(trace.y) for trace in figure.data)
    half = 0.1 if bands == "range" else 0.1 * 12.706  # Student's quantile times the deviation 0.2 / √2, over √2
    assert middle == pytest.approx(0.6) and low == pytest.approx(0.6 - half, abs=1e-4) and high == pytest.approx(0.6 + half, abs=1e-4)


def test_many_tasks_are_colours_that_can_be_read(tmp_path):
    names = [f"task-{i:03}" for i in range(50)]
    row = {"time": 1.0, "summary/frames": 5} | {f"tasks/{name}/frames": 1 for name in names}
    row |= {f"tasks/{name}/score": i / 50 for i, name in enumerate(reversed(names))}
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row | {"summary/frames": frames}) for frames in (5, 10)))
    figure = next(figure for figure in figures_of([read_run(tmp_path)]) if figure.layout.title.text == "Score by task")
    assert list(figure.data[0].y) == names[::-1], "the lowest first"
    assert figure.layout.height - 120 >= 15 * len(names)


def test_an_evaluation_that_goes_on_is_no_problem(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "run")
    (copy / "evaluation" / "99").mkdir()
    (copy / "evaluation" / "99" / "evaluation.log").write_text("")
    assert not read_run(copy).problems
    (copy / "evaluation" / "99" / "evaluation.log").unlink()
    assert read_run(copy).problems == ["evaluation/99/results.json is missing"]


def test_a_resumed_run_keeps_the_experiment_that_it_changed(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "run")
    rate = "--learner.actor.learning-rate"
    assert main(["train", "--resume", str(copy), "--total-frames", "4000", rate, "3e-4"]) == 0
    run = read_run(copy)
    [(frames, before)] = run.changes.items()
    assert 3000 <= frames < 4000 and before["learner"]["actor"]["learning_rate"] != 3e-4 == run.config["learner"]["actor"]["learning_rate"]
    [(_, fields)] = changes(run)
    assert ("learner.actor.learning_rate", [str(before["learner"]["actor"]["learning_rate"]), "0.0003"]) in fields
    page = render([run])
    assert f"Until {frames:,} frames" in page
    figure = next(figure for figure in figures_of([run]) if figure.layout.title.text == "Mean score of training episodes")
    assert [shape.x0 for shape in figure.layout.shapes] == [frames]
    over_time = next(figure for figure in figures_of([run]) if figure.layout.title.text.endswith("over time"))
    assert 0 < over_time.layout.shapes[0].x0 < max(over_time.data[0].x)
    # The same experiment from the beginning on is another method.
    whole = dataclasses.replace(run, changes={}, name="whole")
    assert [len(method.runs) for method in methods_of([run, whole, dataclasses.replace(run, name="again")])] == [2, 1]
    assert "changed on the way" in methods_of([run, whole, dataclasses.replace(run, name="again")])[0].name
    # Nothing changed: nothing is kept.
    assert main(["train", "--resume", str(copy), "--total-frames", "5000", rate, "3e-4"]) == 0
    longer = read_run(copy)
    assert [fields for _, fields in changes(longer)][-1] == [("total_frames", ["4000", "5000"])]
    unchanged = dataclasses.replace(longer, changes={})
    only_longer = dataclasses.replace(longer, changes=dict([*longer.changes.items()][-1:]))
    assert len(methods_of([unchanged, only_longer])) == 1, "more frames are no other method"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tasks", "score", "summary/frames", "time", "x"]), inner),
    max_leaves=8,
)
CONTENT = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=CONTENT, versions=CONTENT, metrics=st.lists(CONTENT, max_size=4), results=CONTENT)
def test_no_folder_can_break_the_page(tmp_path, config, versions, metrics, results):
    files = {"config.yaml": config, "versions.json": versions, "metrics.jsonl": b"\n".join(metrics), "evaluation/7/results.json": results}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    run = read_run(tmp_path)
    assert all(math.isfinite(value) for row in run.rows for value in row.values())
    assert "</html>" in render([run])


def test_what_cannot_be_done_is_one_sentence(runs, tmp_path, capsys):
    assert main(["report"]) == 2
    assert "needs the directory of a run" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "there is no run directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "there is no run in" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot write"):
        write_report(runs[:1], tmp_path / "no" / "such" / "folder.html")


def test_the_use_of_the_experts_is_a_share_of_the_weights_sizes():
    """Task a takes three quarters of expert 0 at first and all of expert 1 at the end; task b takes equal parts throughout."""
    nan = np.nan
    columns = {
        "summary/frames": [10, 20, 30],
        "tasks/a/frames": [5, 10, 15],
        "tasks/b/frames": [5, 10, 15],
        "experts/a/weight_0": [-3.0, nan, 0.0],
        "experts/a/weight_1": [1.0, nan, -2.0],
        "experts/b/weight_0": [1.0, nan, 5.0],
        "experts/b/weight_1": [-1.0, nan, 5.0],
    }
    run = Run(Path("run"), columns={name: np.array(values, float) for name, values in columns.items()})
    figure = expert_usage(run)
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("expert 0", [10, 30], [0.625, 0.25]),
        ("expert 1", [10, 30], [0.375, 0.75]),
    ]
    # One point has no area: it is a bar.
    early = {name: values[:1] for name, values in run.columns.items()}
    drawn = expert_usage(Run(Path("run"), columns=early))
    assert [(trace.type, list(trace.x), list(trace.y)) for trace in drawn.data] == [("bar", ["10"], [0.625]), ("bar", ["10"], [0.375])]
    assert drawn.layout.barmode == "stack"
    nothing = Run(Path("run"), columns={"summary/frames": np.array([10.0]), "tasks/a/frames": np.array([5.0])})
    assert expert_usage(nothing) is None
    many = {f"experts/a/weight_{k}": np.array([1.0, 2.0]) for k in range(12)}
    drawn = expert_usage(Run(Path("run"), columns={"summary/frames": np.array([1.0, 2.0]), "tasks/a/frames": np.array([1.0, 2.0]), **many}))
    assert drawn.data[0].type == "heatmap" and np.allclose(drawn.data[0].z, 1 / 12)


def test_conflicts_of_gradients_are_means_over_the_newest_quarter():
    """In eight lines of metrics the last two count; a and b are opposed there, and c was never trained."""
    values = np.array([0.9] * 6 + [-0.5, -0.7])
    columns = {f"tasks/{task}/frames": np.arange(8.0) for task in "abc"} | {"summary/frames": np.arange(8.0)}
    columns |= {"gradients/a/cosine_1": values, "gradients/b/cosine_0": values}
    drawn = gradient_conflicts(Run(Path("run"), columns=columns))
    np.testing.assert_allclose(drawn.data[0].z, [[np.nan, -0.6, np.nan], [-0.6, np.nan, np.nan], [np.nan] * 3])
    assert gradient_conflicts(Run(Path("run"), columns={"tasks/a/frames": np.arange(8.0)})) is None
    # Columns have numbers, and what was not measured is grey, which is no colour of the scale.
    assert list(drawn.data[0].x) == ["1", "2", "3"] and list(drawn.data[0].y) == ["1 a", "2 b", "3 c"]
    np.testing.assert_allclose(np.isnan(drawn.data[1].z), ~np.isnan(drawn.data[0].z))
    assert {colour for _, colour in drawn.data[1].colorscale} == {"#999999"}


def test_conflicts_that_only_early_lines_have_are_shown():
    """Measured in the first five of forty lines: the newest quarter of the measurements are the last two."""
    values = np.full(40, np.nan)
    values[:5] = [0.9, 0.9, 0.9, -0.2, -0.4]
    columns = {f"tasks/{task}/frames": np.arange(40.0) for task in "ab"}
    columns |= {"gradients/a/cosine_1": values, "gradients/b/cosine_0": values}
    drawn = gradient_conflicts(Run(Path("run"), columns=columns))
    np.testing.assert_allclose(drawn.data[0].z, [[np.nan, -0.3], [-0.3, np.nan]])


def test_axes_begin_where_their_figures_do(runs):
    """Frames begin at 0 in all curves of a run; a mean of sizes is not below 0."""
    found = {figure.layout.title.text: figure for figure in figures_of([read_run(runs[0])])}
    for title in ("Mean score of training episodes", "Score by task", "Share of trained frames by task"):
        assert found[title].layout.xaxis.rangemode == "tozero", title
    assert found["Similarity of the experts before they are made orthogonal"].layout.yaxis.rangemode == "tozero"


def test_a_run_beside_a_mean_has_no_markers_that_the_mean_lacks(runs):
    figure = next(each for each in figures_of([read_run(path) for path in runs]) if each.layout.title.text == "Speed")
    lines = [trace for trace in figure.data if trace.showlegend is not False]
    assert [trace.mode for trace in lines] == ["lines", "lines"]
    alone = next(each for each in figures_of([read_run(runs[0]), read_run(runs[2])]) if each.layout.title.text == "Speed")
    assert [trace.mode for trace in alone.data] == ["lines+markers", "lines+markers"]


def test_a_method_of_runs_with_the_same_seed_counts_runs(tmp_path):
    paths = sweep_of(tmp_path / "A", 0.001, (0.0, 1.0))
    again = shutil.copytree(paths[1], tmp_path / "A" / "seed-1-again")
    for chosen, name in ((paths, "2 seeds"), ([*paths, again], "3 runs"), ([paths[1], again], "2 runs")):
        [comparison] = compare([read_run(path) for path in chosen])
        assert [method.name for method in comparison.methods] == [f"seed-{0 if chosen[0] == paths[0] else 1} ({name})"]


def test_scores_of_training_are_marked_beside_evaluated_ones(tmp_path):
    evaluated = read_run(write_run(tmp_path / "evaluated", {"name": "toy", "x": 1}, {1000: {"a": [1.0, 0.0]}}))
    trained = read_run(write_run(tmp_path / "trained", {"name": "toy", "x": 2}, {}))
    for run in (evaluated, trained):
        run.columns |= {f"tasks/{task}/score": np.array([0.1, 0.25]) for task in "ab"}
    figure = next(each for each in figures_of([evaluated, trained]) if each.layout.title.text == "Newest score by task and run")
    assert list(figure.data[0].x) == ["evaluated", "trained *"]
    assert [list(row) for row in figure.data[0].text] == [["0.50", "0.25*"], ["0.25*", "0.25*"]]
    assert "training" in figure.layout.title.subtitle.text
    evaluated.columns |= {"tasks/b/score": np.array([np.nan, np.nan])}
    figure = next(each for each in figures_of([evaluated, evaluated]) if each.layout.title.text == "Newest score by task and run")
    assert figure.layout.title.subtitle.text is None, "nothing to mark"


def test_every_axis_and_scale_has_a_name_and_every_figure_says_of_how_many_runs_or_episodes(tmp_path):
    scores = {"a": 0.2, "b": 0.5, "c": 0.8}
    for method, better in scores.items():
        for seed in range(3):
            figures = {task: [better] * 20 + [float(seed % 2)] * 5 for task in ("x", "y")}
            write_run(tmp_path / f"{method}-{seed}", {"name": "toy", "x": method, "seed": seed}, {1_000: figures, 2_000: figures})
    runs = [read_run(path) for path in sorted(tmp_path.iterdir())]
    [comparison] = compare(runs)
    drawn = [
        interval_estimates(comparison),
        iqm_curves(comparison),
        profiles(comparison),
        improvements(comparison),
        task_estimates(runs[0]),
    ]
    for figure in drawn:
        said = figure.layout.title.subtitle.text
        assert figure.layout.xaxis.title.text and re.search(r"\d+ (runs|episodes)|95 % intervals over runs", said), said
    estimates, matrix = drawn[0], drawn[3]
    assert [text.text for text in estimates.layout.annotations] == ["IQM", "median", "mean", "optimality gap (lower is better)"]
    assert matrix.layout.yaxis.title.text == "method" and matrix.data[0].colorbar.title.text == "probability"
    wins, pair = comparison.methods[1].improvement, matrix.data[0].text[1][0]
    assert pair.startswith("1.00<br>(") and wins.bounded and wins.value == 1.0


def test_what_is_measured_now_and_then_has_a_line():
    """Also where most lines of metrics have none of it, as with gradients."""
    rows = np.arange(9.0)
    sparse = np.where(rows % 4 == 0, rows / 10, np.nan)
    run = Run(Path("run"), columns={"summary/frames": rows, "tasks/a/frames": rows, "tasks/a/gradient_conflict": sparse})
    (line,) = task_curves(run, "gradient_conflict", "title", "share").data
    assert list(line.x) == [0, 4, 8] and list(line.y) == [0.0, 0.4, 0.8]


def test_the_median_is_that_of_the_tasks_means():
    """As rliable's: not that of all runs and tasks, which one task's seeds would decide."""
    rng = np.random.default_rng(0)
    scores = np.array([[0.0, 0.4, 1.0], [0.2, 0.4, 1.0], [1.0, 0.1, 1.0]])
    found = median_over_tasks(scores, rng)
    assert found.value == pytest.approx(0.4) and found.low < 0.4 < found.high
    assert median_over_tasks(scores[:1], rng).value == 0.4 and not median_over_tasks(scores[:1], rng).bounded
