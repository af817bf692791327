"""Crash safety: after any stop a stage is absent, in progress or complete, and the next run ends the same. No torch.

Each sweep is one process that forks a run for every operation on the disk; see disk_sweep.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

SWEEP = Path(__file__).with_name("disk_sweep.py")
EVERY = pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])  # each n-th operation

MEMORY = Path("/dev/shm")  # a kill loses nothing that the kernel has, so no disk is needed


def swept(how: str, every: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        command = [sys.executable, str(SWEEP), folder, how, str(every)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=SWEEP.parents[1])
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))


@EVERY
def test_a_run_killed_at_any_operation_leaves_nothing_torn_and_ends_the_same(every: int) -> None:
    found = swept("kill", every)
    assert found["bad"] == []
    assert found["stopped"] >= found["operations"] / every > 50 / every


@EVERY
def test_a_disk_that_fills_up_at_any_operation_is_said_and_costs_no_finished_step(every: int) -> None:
    found = swept("full", every)
    assert found["bad"] == []
    assert found["stopped"] > 50 / every


def test_an_entry_named_before_its_record_is_caught() -> None:
    """Negative control: the mutant that renames first and writes the record after."""
    assert any("visible and torn" in text for text in swept("rename-first", 2)["bad"])
