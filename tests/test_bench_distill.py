"""The sides of bench/distill.py compute one thing, and its checks see it when they do not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest

from bench.distill import LOSS_TOLERANCE, Cost, together
from bench.distill_sides import SIDES, Figures, Setup, make_rows, make_teacher, ours, store_of
from bench.distill_witness import MOST, Witness, faults, verdict

SETUP = Setup(
    side="",
    divergence="forward_kl",
    vocabulary=64,
    student_hidden=96,
    student_layers=1,
    teacher_hidden=96,
    teacher_layers=1,
    batch=4,
    shortest=30,
    longest=40,
    supervised=0.5,
    draws=12,
    steps=3,
    threads=1,
    bf16=False,
    targets="",
)
Side = Callable[..., Figures]  # of a name, and a setup


@pytest.fixture
def side(tmp_path: Path) -> Side:
    """Runs a side in this process; the targets are kept between calls."""

    def run(name: str, setup: Setup = SETUP) -> Figures:
        setup = replace(setup, side=name, targets=str(tmp_path / "targets"))
        return SIDES[name](setup, make_rows(setup), mkdtemp(dir=tmp_path))

    return run


def gap(one: Figures, other: Figures) -> float:
    assert len(one.losses) == len(other.losses) == SETUP.steps
    return abs(one.losses[-1] - other.losses[-1])


def test_gkd_and_the_online_loss_are_one_and_another_divergence_is_not(side: Side) -> None:
    stock = side("gkd")
    assert gap(stock, side("online")) <= LOSS_TOLERANCE
    assert gap(stock, side("online", replace(SETUP, divergence="reverse_kl"))) > LOSS_TOLERANCE


def test_a_cached_loss_is_the_exact_one_up_to_chance_and_the_controls_are_not(side: Side) -> None:
    side("fill")
    cached, check = side("cached"), side("check")
    assert cached.losses == check.losses
    found = check.more["found"]
    assert check.more["faults"] == []
    assert found["drawn_nats"] == pytest.approx(cached.losses[-1] - found["entropy_nats"], abs=1e-5)
    assert min(abs(found["top"]), abs(found["moved"])) > MOST


def test_targets_of_another_teacher_are_a_fault(tmp_path: Path) -> None:
    rows = make_rows(SETUP)
    store = store_of(SETUP, rows, str(tmp_path / "targets"))
    store.make(make_teacher(replace(SETUP, teacher_layers=2)))
    witness = Witness(store, make_teacher(SETUP))
    ours(SETUP, rows, witness, str(tmp_path))
    assert [fault.split(":")[0] for fault in faults(verdict(witness))] == ["teacher"]


def test_a_control_that_is_not_caught_is_a_fault() -> None:
    found = {"all_steps": 0.1, "last_step": -1.0, "teacher": 2.0, "top": -40.0, "moved": 3.0}
    assert faults(found) == ["moved: 3.0 standard errors from the exact loss"]
    assert faults({**found, "moved": 30.0}) == []
    assert len(faults({**found, "teacher": float("nan")})) == 2


def test_the_teachers_pass_is_paid_once() -> None:
    training, filling = Cost(wall=2.0, cpu=1.0, peak_mb=100), Cost(wall=3.0, cpu=6.0, peak_mb=50)
    assert together(training, filling, 1) == Cost(5.0, 7.0, 100)
    assert together(training, filling, 3) == Cost(3.0, 3.0, 100)
