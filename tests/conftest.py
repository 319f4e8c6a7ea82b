"""Settings of every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

# The tensors of tests are small, and two tests run at a time: a second thread would wait for a core that another test has. Processes that
# tests start read the variable.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def ray_stopped() -> Iterator[None]:
    """No Ray before the test, and none after it."""
    ray = pytest.importorskip("ray")
    ray.shutdown()
    yield
    ray.shutdown()
