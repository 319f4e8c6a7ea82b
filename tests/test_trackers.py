"""Trackers with the real packages, which write into folders here: nothing needs a network."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import Silent, toy_config

from mtrl.cli.dispatch import main
from mtrl.config import ConfigError, dump_yaml, load_config
from mtrl.storage import trackers
from mtrl.storage.run_directory import RunDirectory
from mtrl.storage.trackers import check_trackers
from mtrl.training.run import run_training
from mtrl.training.trainer import build_trainer

SHORT = ["--total-frames", "2000", "--report-seconds", "0.05"]


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def records_of(content: bytes) -> Iterator[bytes]:
    """The records of W&B's file: LevelDB's log, blocks of 32 KiB with parts that have a checksum, a length and a place in their record."""
    place, record = 7, b""  # a header of the file's own
    while place < len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<4xHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_mlflow_has_every_line_and_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    run = tmp_path / "run"
    assert main(["train", "toy", "--trackers", "tensorboard,mlflow", *SHORT, "--run-dir", str(run)]) == 0
    assert main(["train", "--resume", str(run), "--total-frames", "4000"]) == 0
    client = MlflowClient()
    [found] = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert found.data.params["learner.discount"] == "0.99" and found.info.status == "FINISHED"
    logged = client.get_metric_history(found.info.run_id, "summary/frames_per_second")
    rows = [row for row in lines_of(run) if "summary/frames_per_second" in row]
    assert {point.step: point.value for point in logged} == pytest.approx(
        {int(r["summary/frames"]): r["summary/frames_per_second"] for r in rows}
    )
    assert list(run.glob("events.out.tfevents.*"))


def test_wandb_has_every_line_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    assert main(["train", "toy", "--trackers", "wandb", *SHORT, "--run-dir", str(run)]) == 0
    [file] = run.glob("wandb/offline-run-*/*.wandb")
    expected, end = [row["summary/frames"] for row in lines_of(run)], time.monotonic() + 30
    while True:  # W&B's own process writes the file, and on a busy machine it is late
        logged, config = read_wandb(file)
        if logged == expected or time.monotonic() > end:
            break
        time.sleep(0.5)
    assert logged == expected
    assert config["learner.discount"] == 0.99


def read_wandb(file: Path) -> tuple[list[float], dict[str, object]]:
    """The frames of all lines, and the configuration."""
    from wandb.proto.wandb_internal_pb2 import Record

    logged, config = [], {}
    for data in records_of(file.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            logged.append(items["summary/frames"])
        for item in record.run.config.update if record.HasField("run") else ():
            config[item.key] = json.loads(item.value_json)
    return logged, config


def test_a_tracker_of_ones_own_and_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_trackers.py").write_text(
        "class Memory:\n    seen = []\n    def __init__(self, path, config, suite, frames): pass\n"
        "    def log(self, metrics, frames): self.seen.append(frames)\n    def close(self): self.seen.append('closed')\n"
        "class Broken(Memory):\n    def __init__(self, *_): raise RuntimeError('no server')\n"
        "class Failing(Memory):\n    def log(self, metrics, frames): raise RuntimeError('lost')\n"
    )
    monkeypatch.chdir(tmp_path)
    names = tuple(f"my_trackers:{name}" for name in ("Memory", "Broken", "Failing"))
    config = toy_config(total_frames=4000, report_seconds=0.05, trackers=names)
    directory, console = RunDirectory.create(tmp_path / "run", config), Silent()
    assert run_training(build_trainer(config), directory, console) == 0
    import my_trackers

    assert my_trackers.Memory.seen == [*(int(row["summary/frames"]) for row in lines_of(directory.path)), "closed", "closed"]
    said = [message for message in console.messages if message.startswith("warning: cannot write metrics")]
    assert sum("Broken is left out (RuntimeError: no server)" in message for message in said) == 1, "said once"
    assert any("Failing: RuntimeError: lost" in message for message in said)


def test_what_cannot_be_used_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tracker 'tensorbord'.*did you mean tensorboard"):
        check_trackers(toy_config(trackers=("tensorbord",)))
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(ConfigError, match="pip install"):
        check_trackers(toy_config(trackers=("wandb",)))
    (tmp_path / "x.yaml").write_text(dump_yaml(toy_config(trackers=("wandb", "mlflow"))))
    assert load_config(tmp_path / "x.yaml").trackers == ("wandb", "mlflow")
