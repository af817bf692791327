"""Rows, time, memory, energy and calls: what came in is accounted for, and what was not measured is not zero."""

import os
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import no_wait
from report_fakes import Run, whole_chain

from posttrain.report import wording
from posttrain.report.accounting import costs, row_accounts, total_joules, total_usd


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_wait)


def test_every_row_that_came_in_is_used_held_out_or_dropped(tmp_path: Path) -> None:
    accounts = row_accounts(whole_chain(tmp_path).nodes)
    assert [(row.step, row.came_in, row.used) for row in accounts] == [
        ("base", 1000, 990), ("rows", 100, 80), ("sft", 80, 78)
    ]  # fmt: skip
    for row in accounts:
        assert row.came_in == row.used + (row.held_out or 0) + sum(count for _, count in row.dropped)
    assert dict(accounts[1].dropped) == {"exact copies": 4, "near copies": 5, "equal to a held-out prompt": 1}
    assert accounts[2].cut == 0 and "3,000 supervised" in accounts[2].tokens


@pytest.mark.parametrize(("metrics", "config", "said"), [
    ({"packing": True}, {}, "yes"), ({}, {"packing": False}, "no"), ({}, {"packing": None}, "not recorded"),
])  # fmt: skip
def test_packing_is_told_as_it_was_recorded(
    tmp_path: Path, metrics: dict[str, Any], config: dict[str, Any], said: str
) -> None:
    run = Run(tmp_path)
    counted = {"rows": 1, "rows_dropped_too_long": 0, "rows_cut": 0, "tokens": 1, "supervised_tokens": 1}
    run.add("sft", "sft", counted | metrics, config=config)
    assert row_accounts(run.nodes)[0].packed == said


def test_a_step_costs_what_it_and_its_samples_and_its_judge_took(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    run.nodes[-1][1].record["metrics"] |= {"remote_calls": 3, "remote_tokens": 70, "cost_usd": 0.5}
    base, rows, sft = costs(run.nodes)
    assert base.total_seconds == 183.0 and rows.total_seconds == 122.0 and rows.samples_seconds is None
    assert (base.calls, base.tokens, base.usd) == (0, 0, 0.0) and (sft.calls, sft.tokens, sft.usd) == (3, 70, 0.5)
    assert sft.joules is None


def test_a_sum_with_a_part_that_was_not_measured_is_not_measured() -> None:
    assert total_joules([{"joules": {"package-0": 10.0, "dram": 2.5}}, {"joules": {"package-0": 1.0}}]) == 13.5
    assert total_joules([{"joules": {"package-0": 10.0}}, {"joules": None}]) is None
    assert total_joules([{"joules": {"package-0": 10.0}}, {}]) is None  # a record of before energy was measured


def test_figures_are_short_and_have_units() -> None:
    assert [wording.duration(value) for value in (0.3, 25, 234, 4320)] == ["0.3 s", "25 s", "3.9 min", "1 h 12 min"]
    assert [wording.memory(value) for value in (517, 1120)] == ["517 MB", "1.12 GB"]
    assert [wording.energy(value) for value in (None, 840, 12300)] == ["not measured", "840 J", "12.3 kJ"]
    assert [wording.dollars(value) for value in (0, 0.00001, 0.0042, 1234.5)] == [
        "$0.00",
        "<$0.0001",
        "$0.0042",
        "$1,234.50",
    ]
    assert [wording.change(value) for value in (None, 0.44, -1.2, -0.01)] == ["", "+0.4", "−1.2", "±0"]
    assert dict(wording.flat({"lora": {"r": 16}, "full": False, "trainer": {}, "model": None})) == {
        "lora.r": "16", "full": "no", "trainer": "none", "model": "not set"
    }  # fmt: skip


def test_calls_without_a_known_price_are_not_free() -> None:
    assert total_usd([0.5, 0.25]) == 0.75 and total_usd([]) == 0
    assert total_usd([0.5, None]) is None
    assert wording.dollars(None) == "price not known" and wording.dollars(0.0) == "$0.00"
