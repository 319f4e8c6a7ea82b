"""Settings of every test."""

from __future__ import annotations

import torch

# The tensors of tests are small: a second thread would cost more than it brings.
torch.set_num_threads(1)
