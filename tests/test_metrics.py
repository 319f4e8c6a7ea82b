"""One table of metrics: what runs write, and what console, dashboard and RLlib's algorithm read, is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_config

from mtrl.training import build_trainer
from mtrl.training.metrics import METRICS, describe, gradient_metrics

ROOT = Path(__file__).parents[1]
GROUPS = {metric.name.split("/")[0] for metric in METRICS}
NAME = re.compile(rf"({'|'.join(GROUPS)})/[a-z_<>{{}}./]+")


def literals(path: Path) -> list[str]:
    """The strings of a file that look like a metric's name; `{…}` of an f-string stands for a task."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return [text for text in found if NAME.fullmatch(text) and not text.endswith(("/", "{}"))]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learner__surrogate": "clipped", "learner__epochs": 2, "curriculum__scheduler": "camrl"},
        {"model__popart": True, "model__memory": True, "learner__balancing": "gradnorm"},
    ],
    ids=["vtrace", "clipped", "memory"],
)
def test_what_a_run_writes_is_in_the_table(changes):
    trainer = build_trainer(toy_config(**changes))
    for _ in range(20):
        trainer.step()
    written = trainer.metrics()
    trainer.close()
    assert [name for name in written if describe(name) is None] == []
    assert all(np.isfinite(value) for value in written.values())
    assert {"learner/skipped_steps", "experts/cue/weight_0", "tasks/cue/value_error", "vtrace/rho_mean"} <= written.keys()
    assert ("learner/kl" in written) == ("learner__surrogate" in changes)


def test_what_is_read_is_in_the_table():
    readers = [
        path for folder in ("dashboard", "cli", "distributed", "benchmark", "training") for path in (ROOT / "mtrl" / folder).rglob("*.py")
    ]
    read = {name for path in readers for name in literals(path)}
    assert {"summary/score_mean", "learner/policy_loss", "summary/frames"} <= read
    assert sorted(name for name in read if describe(name) is None and name not in {m.name for m in METRICS}) == []


def test_names_are_made_in_one_room():
    """Besides the table's module, names of the learner's and the tasks' figures are read, never put together."""
    makers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mtrl").rglob("*.py")
        if re.search(r'f"(tasks|learner|experts|vtrace|curriculum|throughput|evaluation)/\{', path.read_text())
    ]
    assert set(makers) <= {"mtrl/training/metrics.py", *READERS}


READERS = (
    *(f"mtrl/dashboard/{name}.py" for name in ("alone", "curves", "method_figures", "overview", "page", "runs", "task_figures")),
    *("mtrl/cli/run_view.py", "mtrl/storage/trackers.py", "mtrl/storage/run_directory.py"),
    *(f"mtrl/benchmark/{name}.py" for name in ("alone", "chaos", "curriculum")),
)
"""Rooms that look a task's figure up by its name."""


def test_the_table_is_well_formed():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert (
        describe("tasks/Door-Key_6/score").name == "tasks/<task>/score"
        and describe("experts/a/b/weight_12").name == "experts/<task>/weight_<k>"
    )
    assert describe("tasks/score") is None and describe("learner/loss") is None


def test_conflicts_are_counted_among_tasks_with_a_gradient():
    """a is opposed to b alone; d has no gradient and counts for nobody. More tasks than a line can hold leave the pairs out."""
    cosines = np.array([[1, -0.2, 0.3, np.nan], [-0.2, 1, -0.4, np.nan], [0.3, -0.4, 1, np.nan], [np.nan] * 4])
    metrics = gradient_metrics(list("abcd"), cosines)
    assert {name: metrics[f"tasks/{name}/gradient_conflict"] for name in "abc"} == {"a": 0.5, "b": 1.0, "c": 0.5}
    assert metrics["gradients/b/cosine_2"] == -0.4 and not [name for name in metrics if "/d/" in name or name.endswith("_3")]
    many = gradient_metrics([f"t{k}" for k in range(17)], np.full((17, 17), -1.0))
    assert many == {f"tasks/t{k}/gradient_conflict": 1.0 for k in range(17)}
