"""The learner's threads follow the cores that are free."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import toy_config

from mtrl.machine import idle_seconds
from mtrl.training.threads import LearnerThreads
from mtrl.training.trainer import build_trainer


def test_threads_are_taken_while_cores_are_idle_and_given_back_when_one_is_missed():
    threads = LearnerThreads(3, fixed=False)
    assert threads.count == 1
    for waited, idle, expected in (
        *((0.0, 1.5, 2), (0.0, 1.0, 3), (0.0, 2.0, 3)),  # to the largest number
        *((0.05, 0.2, 3), (0.5, 0.0, 2), (0.5, 1.0, 1), (0.5, 0.0, 1)),  # down to one, also where another core is idle now and then
        *((0.0, 0.3, 1), (0.0, 0.8, 2)),
    ):
        threads.count = threads.after(waited, idle)
        assert threads.count == expected
    assert LearnerThreads(4, fixed=True).count == 4


def test_a_run_in_one_process_has_one_thread_whatever_the_machine_does():
    trainer = build_trainer(toy_config())
    trainer.step()
    assert torch.get_num_threads() == 1
    trainer.close()


def test_waiting_for_a_core_is_noticed():
    """Two processes on one core: each waits for half of the time."""
    code = (
        "import os, sys, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from mtrl.machine import waited_seconds\n"
        "child = os.fork()\n"
        "while child == 0: pass\n"
        "before, end = waited_seconds(), time.monotonic() + 1.0\n"
        "while time.monotonic() < end: pass\n"
        "print(waited_seconds() - before); os.kill(child, 9)"
    )
    waited = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.25 < waited < 1.0
    assert idle_seconds() == pytest.approx(idle_seconds(), abs=1.0)
