"""What is reported of the updates between two lines of metrics."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import collect, toy_config

from envs import make_suite
from mtrl.learning.interface import UpdateResult
from mtrl.learning.targets import TaskValues
from mtrl.training.metrics import Interval


def test_policy_lag_is_the_mean_over_slots():
    """Two slots of the first task and one of the second, trained on in two updates; each slot lags by its own number of versions."""
    suite = make_suite("toy/corridor,cue")
    (rollout,) = collect(toy_config(suite.name, env_runners__slots=3))
    assert rollout.task_ids.tolist() == [0, 0, 1]
    nothing = UpdateResult({}, TaskValues(np.zeros(2), np.zeros(2), np.zeros(2)), None, None, distinct_rows=1, skipped_steps=0)
    interval = Interval(suite)
    for at, versions in ((5, [3, 4, 5]), (7, [3, 4, 5])):
        trained = rollout._replace(version=np.array(versions)).outline
        interval.add_update(nothing, trained, trained.frames_per_task(2), at, seconds=0.1)
    metrics = interval.metrics()
    assert metrics["tasks/corridor/policy_lag"] == pytest.approx((2 + 1 + 4 + 3) / 4)
    assert metrics["tasks/cue/policy_lag"] == pytest.approx((0 + 2) / 2)
    assert metrics["summary/policy_lag"] == pytest.approx((2 + 1 + 0 + 4 + 3 + 2) / 6)
