"""The report: from real runs, from broken ones, and from ones that mean harm."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrl.cli.dispatch import main
from mtrl.dashboard.overview import differences
from mtrl.dashboard.report import render, write_report
from mtrl.dashboard.runs import MAX_POINTS, read_run
from mtrl.errors import UserError


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
    assert run.hours[-1] == pytest.approx((lines[-1]["time"] - lines[0]["time"]) / 3600)
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
    with pytest.raises(UserError, match="cannot write"):
        write_report(runs[:1], tmp_path / "no" / "such" / "folder.html")
