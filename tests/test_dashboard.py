"""The live dashboard: what it shows, and what it must never show."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from mtrl.cli.dispatch import main
from mtrl.dashboard.app import make_app

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
)
def test_no_folder_can_break_a_page(tmp_path, config, metrics, results):
    files = {"config.yaml": config, "metrics.jsonl": metrics, "evaluation/12/results.json": results}
    for name, content in files.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(content)
    client = TestClient(make_app(tmp_path), raise_server_exceptions=False)
    for address in ("/", "/run/run", "/api/runs", "/api/figures?run=run"):
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        assert "Traceback" not in answer.text


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
