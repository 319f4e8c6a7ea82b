"""Evaluation results: what the first version wrote is read, what is read is written again, and everything else is refused in a sentence."""

from __future__ import annotations

import json

import pytest

from mtrl.evaluation.results import EvaluationResults, ResultsError, read_results, write_results
from mtrl.evaluation.statistics import Estimate
from mtrl.storage.layout import RunLayout

FIRST_VERSION = """{
 "protocol": "minigrid-v1", "changed": {"episodes": 2}, "suite": "minigrid/mt3", "rules": {}, "step": 1200, "seed": 0,
 "backend": "gymnasium", "sampled_actions": true, "policy": {"commit": "abc", "config": "x", "weights_sha256": "0"}, "versions": {},
 "seconds": 1.5,
 "tasks": {"LavaGapS7": {"n": 2, "successes": 1, "success_rate": {"value": 0.5, "low": 0.1, "high": 0.9},
                         "score": {"value": 0.4, "low": 0.0, "high": 0.8}, "return_mean": 0.4, "length_mean": 30.0}},
 "score_mean": {"value": 0.4, "low": 0.0, "high": 0.8}, "file": "evaluation/1200/results.json",
 "episodes": [{"task_id": 0, "slot": 0, "episode_return": 0.8, "length": 20, "success": true, "terminated": true, "truncated": false}]}"""


def test_a_file_of_the_first_version(tmp_path):
    path = RunLayout(tmp_path).results(1200)
    path.parent.mkdir(parents=True)
    path.write_text(FIRST_VERSION)
    results = read_results(path)
    assert (results.protocol, results.step, results.changed, results.sampled_actions) == ("minigrid-v1", 1200, {"episodes": 2}, True)
    assert results.tasks["LavaGapS7"].score == Estimate(0.4, 0.0, 0.8) and results.score_mean.high == 0.8
    assert results.episodes[0]["length"] == 20 and str(path).endswith(results.file)
    write_results(path, results)
    expected = json.loads(FIRST_VERSION)
    for task in expected["tasks"].values():
        task["endless"] = 0  # later versions say it
    assert json.loads(path.read_text()) == expected
    assert list(json.loads(path.read_text())) == list(json.loads(FIRST_VERSION))  # figures before episodes
    assert read_results(path) == results


@pytest.mark.parametrize("lost", ["protocol", "tasks", "score_mean", "step", "backend", "changed", "sampled_actions"])
def test_what_lacks_a_figure_is_refused(lost):
    values = json.loads(FIRST_VERSION)
    del values[lost]
    with pytest.raises(ResultsError, match="not the results of an evaluation"):
        EvaluationResults.from_json(values)


@pytest.mark.parametrize("values", [[], 3, None, {"tasks": []}, {**json.loads(FIRST_VERSION), "score_mean": 3}])
def test_other_json_is_refused(values, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ResultsError, match=r"results\.json"):
        read_results(path)
