"""The live dashboard: what it shows, and what it must never show."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from mtrl.cli.dispatch import main
from mtrl.config import flatten, load_config
from mtrl.dashboard.app import make_app
from mtrl.dashboard.decisions import decision_at
from mtrl.dashboard.folder import FIRST_ROWS, RunFolder
from mtrl.dashboard.newest import newest_values
from mtrl.dashboard.runs import evaluation_of, read_run
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.explain import explain_run

FUZZ = int(os.environ.get("MTRL_FUZZ", "100"))  # malformed run folders; 1000 take 80 seconds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs, one of them evaluated, beside a broken one and a folder that is none."""
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    for name, seed in (("first", "0"), ("second", "1")):
        options = ["toy", "--total-frames", "2500", "--report-seconds", "0.2", "--seed", seed, "--run-dir", str(folder / name)]
        assert main(["train", *options]) == 0
    assert main(["evaluate", str(folder / "first")]) == 0
    (folder / "broken").mkdir()
    (folder / "broken" / "metrics.jsonl").write_text('{"time": 1, "summary/fra')
    (folder / "broken" / "config.yaml").write_text("name: [")
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def client(root: Path) -> TestClient:
    return TestClient(make_app(root), raise_server_exceptions=False)


def test_the_table_lists_every_run_and_nothing_else(client):
    page = client.get("/").text
    assert all(f'href="/run/{name}"' in page for name in ("first", "second", "broken"))
    assert "notes" not in page
    rows = {row["id"]: row for row in client.get("/api/runs").json()}
    assert set(rows) == {"first", "second", "broken"}
    assert rows["first"]["frames"] >= 2500
    assert rows["first"]["evaluated"]["low"] <= rows["first"]["evaluated"]["value"]
    assert rows["second"]["evaluated"] is None
    assert rows["broken"]["problem"] == "no metrics yet"


def run_below(root: Path, name: str, *rows: dict[str, float], config: str = "", state: dict[str, object] | None = None) -> Path:
    """A run's folder with these lines of metrics."""
    run = root / name
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text(config or f"name: {name.rpartition('/')[2]}\n")
    if state is not None:
        (run / "state.json").write_text(json.dumps(state))
    return run


def test_a_long_list_begins_with_the_newest_runs_and_fills_up(tmp_path):
    """However long the reading of a folder takes: an answer has the newest runs, and says how many are missing."""
    number = FIRST_ROWS + 7
    for run in range(number):
        run_below(tmp_path, f"run-{run:02}", {"time": 1.0, "summary/frames": run, "summary/score_mean": 0.5})
        os.utime(tmp_path / f"run-{run:02}", (1000.0 + run, 1000.0 + run))
    folder, newest = RunFolder(tmp_path), [f"run-{run:02}" for run in reversed(range(number))]
    for columns in ([], ["name", "model.gate"]):
        rows, unread = folder.rows(columns, seconds=0.0)
        assert [row.summary.id for row in rows] == newest[:FIRST_ROWS] and unread == 7
        assert all(row.summary.score == 0.5 and row.values == [row.summary.id, None][: len(columns)] for row in rows)
    folder.summary("run-00")  # a run that was read for another reason is shown
    assert [row.summary.id for row in folder.rows(seconds=0.0)[0]] == [*newest[:FIRST_ROWS], "run-00"]
    folder.read_ahead()
    for columns in ([], ["model.gate"]):
        assert [row.summary.id for row in folder.rows(columns, seconds=0.0)[0]] == newest
    assert len(RunFolder(tmp_path).rows()[0]) == number  # whoever sets no limit gets all


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | st.floats(-9, 9)), max_size=12),
    st.integers(0, 40_000),
    st.sampled_from(["", '{"summary/frames": 1, "a"', "no line"]),
)
@settings(deadline=None, max_examples=FUZZ, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_newest_values_are_those_of_the_last_lines(tmp_path, rows, padding, end):
    """Against a reader of the whole file, with lines that are longer than what is read at once."""
    lines = [json.dumps({"summary/frames": index, "text": "x" * padding} | row) for index, row in enumerate(rows)]
    (tmp_path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines) + end)
    expected = {}
    for row in rows:
        expected |= {name: value for name, value in row.items() if value is not None and name != "c"}
    assert newest_values(tmp_path, ("a", "b")) == expected


@pytest.mark.parametrize("episodes", [0, 3, 2000])
def test_results_are_read_without_their_episodes(tmp_path, episodes):
    """Also where the place at which they begin is far into the file."""
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    figures = {"n": 2, "successes": 1, "success_rate": interval, "score": interval, "return_mean": 1.0, "length_mean": 5.0}
    for tasks in (1, 60, 500):
        names = [f"task-{task}" for task in range(tasks)]
        values = {"protocol": "p-v1", "changed": {}, "step": 7, "backend": "envpool", "sampled_actions": False}
        values |= {"tasks": dict.fromkeys(names, figures), "score_mean": interval, "episodes": [{"score": 1.0}] * episodes}
        (tmp_path / "evaluation" / "7").mkdir(parents=True, exist_ok=True)
        (tmp_path / "evaluation" / "7" / "results.json").write_text(json.dumps(values, indent=1))
        found = evaluation_of(tmp_path)
        assert found is not None and list(found.tasks) == names and found.episodes == () and found.score_mean.value == 0.5


def test_odd_results_are_no_server_errors(root, tmp_path):
    """Those with a field of another kind are no results; a number that JSON does not have is null."""
    shutil.copytree(root / "first", tmp_path / "odd")
    (file,) = (tmp_path / "odd" / "evaluation").glob("*/results.json")
    values = json.loads(file.read_text())
    client = TestClient(make_app(tmp_path), raise_server_exceptions=False)
    for changes in ({"changed": None}, {"changed": ["a"]}, {"rules": 3}):
        file.write_text(json.dumps(values | changes))
        assert client.get("/run/odd").status_code == client.get("/api/runs/odd/evaluation").status_code == 200
    tasks = {name: row | {"return_mean": float("nan")} for name, row in values["tasks"].items()}
    file.write_text(json.dumps(values | {"tasks": tasks}))
    found = client.get("/api/runs/odd/evaluation")
    assert found.status_code == 200 and all(row["return_mean"] is None for row in found.json()[0]["tasks"].values())


def test_a_run_that_has_just_begun_is_training(root, tmp_path):
    """Before its first line of metrics, which may take minutes."""
    run = tmp_path / "begun"
    run.mkdir()
    shutil.copy(root / "first" / "config.yaml", run)
    state = json.loads((root / "first" / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"state": "training"}))
    (row,) = TestClient(make_app(tmp_path)).get("/api/runs").json()
    assert row["state"] == "training"


def test_an_ipv6_address_of_this_machine_is_answered_to(client):
    assert client.get("/api/runs", headers={"host": "[::1]:8050"}).status_code == 200
    assert client.get("/api/runs", headers={"host": "evil.example:8050"}).status_code == 400


def test_the_outline_of_an_experiment_is_its_beginning(tmp_path):
    """Fields of the table are the same whether only the beginning or all of the file is read, in whichever order it is written."""
    for order in (False, True):
        for name in ("minigrid_mt3", "metaworld_mt10"):
            text = yaml.safe_dump(load_config(f"configs/{name}.yaml").model_dump(mode="json"), sort_keys=order)
            run_below(tmp_path, f"{name}-{order}", config=text)
            folder, all_fields = RunFolder(tmp_path), flatten(yaml.safe_load(text))
            summary = folder.summary(f"{name}-{order}")
            assert (summary.experiment, summary.suite) == (all_fields["name"], all_fields["suite.name"])
            assert (summary.seed, summary.total_frames) == (all_fields["seed"], all_fields["total_frames"])


def test_runs_in_subfolders_are_found(tmp_path):
    row = {"time": 1.0, "summary/frames": 5, "tasks/a/b/frames": 5, "tasks/a/frames": 5}
    for name in ("X-sweep/seed-0", "X-sweep/seed-1", "deep/er/still/run", "too/deep/for/this/run"):
        run_below(tmp_path, name, row)
    run_below(tmp_path, "X-sweep/seed-0/checkpoints/no-run", row)
    client = TestClient(make_app(tmp_path))
    assert {entry["id"] for entry in client.get("/api/runs").json()} == {"X-sweep/seed-0", "X-sweep/seed-1", "deep/er/still/run"}
    assert 'href="/run/X-sweep/seed-0"' in client.get("/").text
    assert "<h1>X-sweep/seed-0</h1>" in client.get("/run/X-sweep/seed-0").text
    assert client.get("/run/X-sweep/seed-0/task/a").status_code == 200
    assert client.get("/run/X-sweep/seed-1/log").text == "no messages"
    assert client.get("/api/runs/X-sweep/seed-0/metrics").json() == [row]
    assert client.get("/compare?run=X-sweep/seed-0&run=X-sweep/seed-1").status_code == 200
    assert client.get("/run/X-sweep/seed-0/checkpoints/no-run").status_code == 404


def test_states_are_told_apart(tmp_path):
    now, config = time.time(), "name: x\ntotal_frames: 1000\nreport_seconds: 100\n"

    def row(age: float) -> dict[str, float]:
        return {"time": now - age, "summary/frames": 250, "summary/frames_per_second": 25.0}

    ends = {"done": "finished", "stopped-by-hand": "interrupted", "broken": "failed"}
    for name, state in ends.items():
        run_below(tmp_path, name, row(0), config=config, state={"state": state, "reason": f"because {name}"})
    run_below(tmp_path, "going-on", row(0), config=config, state={"state": "training"})
    killed = run_below(tmp_path, "killed", row(0), config=config, state={"state": "training"})
    for file in ("metrics.jsonl", "state.json"):
        os.utime(killed / file, (now - 301, now - 301))
    slow = run_below(tmp_path, "slow", row(0), config=config, state={"state": "training"})
    os.utime(slow / "metrics.jsonl", (now - 200, now - 200))  # it reports every 100 s
    old = run_below(tmp_path, "former-version", row(0))
    os.utime(old / "metrics.jsonl", (now - 301, now - 301))
    # The training has ended; the state is written again while the last policy is evaluated, and no metrics are.
    for name, age in (("last-evaluation", 5), ("killed-in-it", 301)):
        run = run_below(tmp_path, name, row(0) | {"summary/frames": 1000}, config=config, state={"state": "training", "evaluating": 1000})
        os.utime(run / "metrics.jsonl", (now - 900, now - 900))
        os.utime(run / "state.json", (now - age, now - age))
    client = TestClient(make_app(tmp_path))
    listed = {entry["id"]: entry for entry in client.get("/api/runs").json()}
    states = {name: entry["state"] for name, entry in listed.items()}
    others = {"going-on": "training", "killed": "stopped", "slow": "training", "former-version": "unknown"}
    others |= {"last-evaluation": "evaluating", "killed-in-it": "stopped"}
    assert listed["last-evaluation"]["live"] and "time left" not in client.get("/run/last-evaluation").text
    assert states == ends | others
    page = client.get("/run/going-on").text
    assert "25%" in page and "30 s" in page, "progress and time left"
    assert "because broken" in client.get("/run/broken").text


def test_a_real_run_says_how_it_ended_and_what_was_said(client, root):
    state = json.loads((root / "first" / "state.json").read_text())
    assert state["state"] == "finished" and state["frames"] >= 2500
    page = client.get("/run/first").text
    assert "finished" in page and "2,5" in page and "fields differ from their defaults" in page


def test_the_page_of_a_run_begins_with_what_it_is(client):
    page = client.get("/run/second").text
    for name, value in (("experiment", "toy"), ("seed", "1"), ("suite", "toy/three"), ("tasks", "3")):
        assert f'<dt>{name}</dt><dd title="{value}">' in page
    assert re.search(r"<dt>first report</dt><dd title=\"\d{4}-\d\d-\d\d \d\d:\d\d\">", page)
    whole = re.search(r"All fields of the experiment</summary><pre>(.*?)</pre>", page, re.DOTALL)[1]
    assert yaml.safe_load(whole)["learner"]["discount"] == 0.99


def test_columns_and_fields_of_the_experiments(tmp_path):
    for name, rate in (("a", 0.001), ("b", 0.0003)):
        config = f"name: x\nlearner:\n  actor:\n    learning_rate: {rate}\n"
        run_below(tmp_path, name, {"time": 1.0, "summary/frames": 5}, config=config)
    (run_below(tmp_path, "c", {"time": 1.0, "summary/frames": 5}) / "config.yaml").write_text("name: [")
    client = TestClient(make_app(tmp_path))
    page = client.get("/?columns=learner.actor.learning_rate,<b>").text
    assert ">0.001</td>" in page and ">0.0003</td>" in page and "<b>" not in page
    assert '<option value="learner.actor.learning_rate">' in page
    found = client.get("/api/fields?name=learner.actor.learning_rate").json()
    assert found == {"a": 0.001, "b": 0.0003, "c": None}


def test_a_metric_is_a_column(tmp_path):
    """Its newest value, also where the last line lacks it, and none for a run that never had it."""
    run_below(
        tmp_path, "a", {"summary/frames": 5, "learner/entropy": 2.0, "tasks/x/score": 0.25}, {"summary/frames": 6, "tasks/x/score": 0.5}
    )
    run_below(tmp_path, "b", {"summary/frames": 5, "learner/entropy": 1.23456789})
    client = TestClient(make_app(tmp_path))
    assert '<option value="tasks/x/score">' in client.get("/").text
    assert client.get("/api/fields?name=learner/entropy").json() == {"a": 2.0, "b": 1.23456789}
    assert client.get("/api/fields?name=tasks/x/score").json() == {"a": 0.5, "b": None}
    page = client.get("/?columns=learner/entropy,tasks/x/score,seed").text
    cells = {
        run: re.findall(r"<td[^>]*>([^<]*)</td>", row)[-3:] for run, row in re.findall(r'<tr data-run="(.)"(.*?)</tr>', page, re.DOTALL)
    }
    assert cells == {"a": ["2", "0.5", "–"], "b": ["1.235", "–", "–"]}
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"summary/frames": 9, "learner/entropy": 0.5}) + "\n")
        file.writelines(json.dumps({"summary/frames": frames, "tasks/x/score": 0.75}) + "\n" for frames in range(10, 300))
    assert client.get("/api/fields?name=learner/entropy").json() == {"a": 2.0, "b": 0.5}, "also from a line long before the last"
    assert client.get("/api/fields?name=tasks/x/score").json() == {"a": 0.5, "b": 0.75}


def test_faults_of_a_run_are_counted_by_task(tmp_path):
    row = {"time": 1.0, "summary/frames": 5.0} | {f"tasks/{task}/{what}": 0 for task in "xyz" for what in ("frames", "faults")}
    run_below(tmp_path, "run", row | {"tasks/x/faults": 2, "tasks/z/faults": 1})
    run_below(tmp_path, "well", row)
    client = TestClient(make_app(tmp_path))
    assert '<dt>faults</dt><dd title="x 2, z 1">' in client.get("/run/run").text
    assert "<dt>faults</dt>" not in client.get("/run/well").text


def test_tasks_that_are_left_out_are_said_in_the_list(tmp_path):
    row = {"summary/frames": 5.0, "tasks/x/quarantined": 1, "tasks/y/quarantined": 0}
    run_below(tmp_path, "one", row)
    run_below(tmp_path, "two", row | {"tasks/y/quarantined": 1})
    run_below(tmp_path, "former", row, row | {"tasks/x/quarantined": 0})
    problems = {entry["id"]: entry["problem"] for entry in TestClient(make_app(tmp_path)).get("/api/runs").json()}
    assert problems == {"one": "1 task left out: environments fail", "two": "2 tasks left out: environments fail", "former": None}


def test_notes_and_messages_are_shown(tmp_path):
    run = run_below(tmp_path, "run", {"time": 1.0, "summary/frames": 5})
    (run / "note.md").write_text("Tags: baseline, seed study\nThe one with <i>noise</i>.\n")
    (run / "messages.log").write_text("2026-01-01 10:00:00 warning: all is <b>well</b>\n")
    client = TestClient(make_app(tmp_path))
    assert client.get("/api/runs").json()[0]["tags"] == ["baseline", "seed study"]
    assert "&lt;i&gt;noise" in client.get("/run/run").text
    log = client.get("/run/run/log")
    assert "all is <b>well</b>" in log.text and log.headers["content-type"].startswith("text/plain")


def test_a_note_is_written_from_its_own_page_alone(tmp_path):
    run = run_below(tmp_path, "sweep/run", {"time": 1.0, "summary/frames": 5})
    secret = tmp_path / "secret"
    secret.write_text("mine")
    client = TestClient(make_app(tmp_path))
    address, page = "/run/sweep%2Frun/note", {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    assert client.put(address, content="tags: a, b\nGood – <b>best</b>", headers=page).status_code == 204
    assert (run / "note.md").read_text() == "tags: a, b\nGood – <b>best</b>" and client.get("/api/runs").json()[0]["tags"] == ["a", "b"]
    assert "&lt;b&gt;best" in client.get("/run/sweep%2Frun").text
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.put(address, content="bad", headers=headers).status_code == 403
    assert client.post(address, content="bad").status_code in (404, 405)
    assert client.put(address, content="x" * 30_000).status_code == 413
    for name in ("nowhere", "..%2f..", "sweep", "%00"):
        assert client.put(f"/run/{name}/note", content="bad").status_code == 404
    (run / "note.md").unlink()
    os.symlink(secret, run / "note.md")
    answer = client.put(address, content="bad")
    assert answer.status_code == 409 and "cannot be written" in answer.text and secret.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "sweep"]
    guarded = TestClient(make_app(tmp_path, token="t"))
    assert guarded.put(address, content="bad").status_code == 401


def test_a_film_says_how_its_episode_ended(tmp_path):
    run = run_below(tmp_path, "run", {"time": 1.0, "summary/frames": 5, **{f"tasks/{task}/frames": 1 for task in "abc"}})
    films = run / "evaluation" / "7" / "video"
    films.mkdir(parents=True)
    for task in "abc":
        (films / f"{task}.mp4").write_bytes(b"moving")
    (films / "a.json").write_text('{"steps": 34, "episode_return": 0.873, "success": true, "steps_per_second": 10}')
    (films / "b.json").write_text("{")
    (tmp_path / "other.json").write_text('{"steps": 666, "episode_return": 0, "success": true, "steps_per_second": 10}')
    os.symlink(tmp_path / "other.json", films / "c.json")
    client = TestClient(make_app(tmp_path))
    assert "a: success, return 0.873 in 34 steps, 10 steps a second" in client.get("/run/run").text
    for task in "bc":
        assert "<figcaption>one episode</figcaption>" in client.get(f"/run/run/task/{task}").text


def test_a_page_of_a_run_that_has_not_begun_looks_again(tmp_path):
    client = TestClient(make_app(tmp_path))
    missing = client.get("/run/soon")
    assert missing.status_code == 404 and "data-missing" in missing.text
    run_below(tmp_path, "soon", {"time": 1.0, "summary/frames": 5})
    assert client.get("/run/soon").status_code == 200


def test_a_page_is_of_one_reading(client):
    # Figures are in the page itself, so that a table cannot be newer than they are.
    page = client.get("/run/first").text
    figures = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    assert figures == client.get("/api/figures?run=first").json()


def test_a_runs_page_and_its_numbers(client, root):
    page = client.get("/run/first").text
    assert "toy-v1" in page
    lines = [json.loads(line) for line in (root / "first" / "metrics.jsonl").read_text().splitlines()]
    assert client.get("/api/runs/first/metrics").json() == lines
    assert client.get("/api/runs/first/evaluation").json()[0]["protocol"] == "toy-v1"
    titles = [figure["layout"]["title"]["text"] for figure in client.get("/api/figures?run=first").json()]
    assert "Score by task" in titles
    assert client.get("/run/broken").status_code == 200


def test_two_runs_side_by_side(client):
    page = client.get("/compare?run=first&run=second").text
    assert "<code>seed</code>" in page
    figure = client.get("/api/figures?run=first&run=second").json()[0]
    assert any("2 seeds" in trace.get("name", "") for trace in figure["data"])
    assert client.get("/compare").status_code == 400


def test_a_growing_run_is_read_again(root, tmp_path):
    client = TestClient(make_app(tmp_path))
    run = tmp_path / "live"
    run.mkdir()
    for frames in (1, 2, 3):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), "summary/frames": frames}) + "\n")
        assert [row["summary/frames"] for row in client.get("/api/runs/live/metrics").json()] == list(range(1, frames + 1))
    assert client.get("/api/runs").json()[0]["live"]


@pytest.mark.parametrize("name", ["%2e%2e", "..%2fsecret", "notes", "first%2f..%2f..", "%00", "first/../../secret", "nowhere"])
def test_nothing_outside_the_folder_can_be_read(client, root, name):
    (root.parent / "secret").mkdir(exist_ok=True)
    (root.parent / "secret" / "metrics.jsonl").write_text(json.dumps({"time": 1, "summary/frames": 666}))
    for address in (f"/run/{name}", f"/api/runs/{name}/metrics", f"/api/figures?run={name}", f"/static/{name}/app.py"):
        answer = client.get(address)
        assert answer.status_code in (400, 404), address
        assert "666" not in answer.text


def test_links_that_lead_out_are_no_runs(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "metrics.jsonl").write_text(json.dumps({"time": 1, "summary/frames": 666}))
    shown = tmp_path / "runs"
    shown.mkdir()
    os.symlink(outside, shown / "link")
    client = TestClient(make_app(shown))
    assert client.get("/api/runs").json() == []
    assert client.get("/run/link").status_code == 404


def test_files_that_are_links_out_are_not_read(tmp_path):
    secret = {"time": 1, "summary/frames": 666, "step": "../../../outside", "name": "secret-name"}
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file.json").write_text(json.dumps(secret))
    run = tmp_path / "runs" / "run"
    (run / "evaluation" / "5").mkdir(parents=True)
    for name in ("metrics.jsonl", "config.yaml", "versions.json", "evaluation/5/results.json"):
        os.symlink(outside / "file.json", run / name)
    (run / "evaluation" / "7" / "video").mkdir(parents=True)
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    task = {"n": 1, "score": interval, "success_rate": interval, "return_mean": 0, "length_mean": 0}
    lying = {"protocol": "x", "changed": {}, "step": "../../../../outside", "backend": "", "sampled_actions": True, "score_mean": interval}
    (run / "evaluation" / "7" / "results.json").write_text(json.dumps({**lying, "tasks": {"a": task}, "episodes": ["own"]}))
    (outside / "results.json").write_text(json.dumps({"episodes": ["stolen"]}))
    client = TestClient(make_app(tmp_path / "runs"))
    for address in ("/", "/run/run", "/api/runs", "/api/runs/run/metrics", "/api/runs/run/evaluation"):
        answer = client.get(address)
        assert answer.status_code == 200 and not any(word in answer.text for word in ("666", "secret-name", "stolen")), address


def test_films_are_served_and_nothing_else(root, tmp_path):
    run = tmp_path / "run"
    video = run / "evaluation" / "7" / "video"
    video.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"time": 1, "summary/frames": 1, "tasks/a/frames": 1, "tasks/b/frames": 1}))
    (video / "a.mp4").write_bytes(b"moving")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    os.symlink(tmp_path / "secret.mp4", video / "b.mp4")
    client = TestClient(make_app(tmp_path))
    answer = client.get("/run/run/video/7/a.mp4", headers={"Range": "bytes=1-2"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (206, b"ov", "video/mp4")
    for address in ("7/b.mp4", "7/c.mp4", "8/a.mp4", "7/..%2f..%2f..%2fsecret.mp4", "..%2f..%2fsecret.mp4/a.mp4"):
        assert client.get(f"/run/run/video/{address}").status_code == 404
    assert "video/7/a.mp4" in client.get("/run/run/task/a").text and "video/7/b.mp4" not in client.get("/run/run/task/b").text
    assert client.get("/run/run/task/c").status_code == 404


def test_names_are_escaped_and_scripts_come_from_here_alone(tmp_path):
    run = tmp_path / "<img src=x onerror=alert(1)>"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"time": 1, "summary/frames": 1}))
    (run / "config.yaml").write_text("name: '<script>alert(2)</script>'\n")
    client = TestClient(make_app(tmp_path))
    for page in (client.get("/"), client.get("/run/%3Cimg%20src=x%20onerror=alert(1)%3E")):
        assert page.status_code == 200
        assert "<img" not in page.text
        assert "<script>" not in page.text
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "default-src 'none'" in policy


def test_a_token_is_needed_where_there_is_one(root):
    client = TestClient(make_app(root, token="open sesame"), follow_redirects=False)
    assert client.get("/").status_code == 401
    assert client.get("/api/runs").status_code == 401
    assert client.get("/static/plotly.js").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/api/runs", headers={"Authorization": "Bearer open sesame"}).status_code == 200
    entered = client.get("/?token=open sesame")
    assert entered.status_code == 307
    assert "token" not in entered.headers["location"]
    assert client.get("/").status_code == 200


def test_other_host_names_are_refused_without_a_token(root):
    client = TestClient(make_app(root), base_url="http://evil.example")
    assert client.get("/").status_code == 400


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.binary(max_size=50),
    metrics=st.binary(max_size=80),
    results=st.binary(max_size=50) | st.sampled_from([b'{"tasks": {}, "protocol": "x"}', b'{"score_mean": 3}', b"[[[["]),
    decisions=st.binary(max_size=50) | st.sampled_from([b'{"version": 0, "trained": 1, "shares": [1]}']),
)
def test_no_folder_can_break_a_page(tmp_path, config, metrics, results, decisions):
    files = {"config.yaml": config, "metrics.jsonl": metrics, "evaluation/12/results.json": results, "curriculum.jsonl": decisions}
    for name, content in files.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(content)
    client = TestClient(make_app(tmp_path), raise_server_exceptions=False)
    for address in ("/", "/run/run", "/api/runs", "/api/figures?run=run"):
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        assert "Traceback" not in answer.text
    assert client.get("/run/run/decision").status_code == 404


def test_what_cannot_be_served_is_one_sentence(root, tmp_path, capsys):
    assert main(["dashboard", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["dashboard", str(root), "--port", "80a"]) == 2
    assert "--port" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["dashboard", str(root), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_a_share_leads_to_the_decision_behind_it(client, root):
    """What the page shows is what `explain` makes of the same log."""
    figures = client.get("/api/figures?run=first").json()
    shares = next(each for each in figures if each["layout"]["title"]["text"] == "Share of trained frames by task")
    assert shares["layout"]["meta"] == {"run": "first", "decisions": True}
    found = decision_at(read_run(root / "first"), 1500.5)
    expected = explain_run(RunDirectory.open(root / "first"), frames=1500).shown[-1]
    assert (found.frames, found.version, found.remark) == (expected.decision.frames, expected.decision.version, "")
    for name, column in (("scheduler", expected.wanted), ("weight", expected.weights), ("share", expected.shares)):
        np.testing.assert_allclose(np.array(found.columns[name], float), column)
    page = client.get(f"/run/first/decision?frames={found.frames}").text
    assert all(f"<td>{task}</td>" in page for task in ("corridor", "constant", "cue"))
    assert f"decision?frames={found.before}" in page and f"decision?frames={found.after}" in page
    newest = decision_at(read_run(root / "first"), None)
    assert newest.after is None and newest.frames > found.frames
    for frames in ("-1", "nan"):
        missing = client.get(f"/run/first/decision?frames={frames}")
        assert missing.status_code == 404 and "No such run" not in missing.text
        assert "No decision of first up to these frames" in missing.text
    # Shares stand next to the task, where a narrow screen shows them; links are told apart.
    assert list(found.columns)[:2] == ["share", "share before"]
    assert re.search(r"update [\d,]+\.\s+· <a [^>]+>decision before</a>\s+· <a [^>]+>decision after</a>", page)
    assert "a task that was not observed yet keeps its uniform share" in page
    assert client.get("/run/first/decision?frames=x").status_code == 400


def test_looking_at_a_decision_runs_no_code_of_the_run(tmp_path, root, monkeypatch):
    """The configuration names a scheduler of somebody else: what was logged is shown, and the module is not imported."""
    shutil.copytree(root / "first", tmp_path / "run")
    (tmp_path / "foreign_rule.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / "run" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["curriculum"] = {"scheduler": "foreign_rule:Rule"}
    config.write_text(yaml.safe_dump(values))
    found = decision_at(read_run(tmp_path / "run"), None)
    assert "foreign_rule:Rule is not part of this program" in found.remark and "`" not in found.remark
    assert "weight" not in found.columns and sum(found.columns["share"]) == pytest.approx(1)
