"""Settings of every test."""

from __future__ import annotations

import os

# The tensors of tests are small, and two tests run at a time: a second thread would wait for a core that another test has. Processes that
# tests start read the variable.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
