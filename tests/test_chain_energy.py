"""Energy is read from counters that are there, and never guessed."""

import sys
import threading
import types
from pathlib import Path

import pytest

from posttrain.chain.energy import Counter, metered, nvml_counters, rapl_counters


def zone(root: Path, folder: str, name: str, energy: int) -> Path:
    (root / folder).mkdir(parents=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "max_energy_range_uj").write_text("1000000000\n")
    (root / folder / "energy_uj").write_text(f"{energy}\n")
    return root / folder / "energy_uj"


def test_packages_and_their_memory_count_once(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)  # a part of the package
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 100)
    zone(tmp_path, "intel-rapl:1", "psys", 1)  # all of it again
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1)  # the same package by another way
    with metered(rapl_counters(tmp_path)) as meter:
        package.write_text("7500000\n")
        memory.write_text("500100\n")
    assert meter.joules() == {"package-0 (intel-rapl:0)": 2.5, "dram (intel-rapl:0:1)": 0.5}


def test_a_counter_that_starts_again_is_read_right(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    with metered(rapl_counters(tmp_path)) as meter:
        package.write_text("1000000\n")
    assert meter.joules() == {"package-0 (intel-rapl:0)": 2.0}


def test_it_is_read_while_the_step_runs_too() -> None:
    readings = iter(range(0, 10_000_000_000, 1_000_000))
    enough = threading.Event()
    seen: list[int] = []

    def read() -> int:
        seen.append(next(readings))
        if len(seen) > 4:
            enough.set()
        return seen[-1]

    with metered([Counter("c", read)], every_s=0.001) as meter:
        assert enough.wait(30)
    assert meter.joules() == {"c": seen[-1] / 1e6}


def test_without_a_counter_nothing_is_measured(tmp_path: Path) -> None:
    with metered(rapl_counters(tmp_path / "absent")) as meter:
        pass
    assert meter.joules() is None


def test_a_counter_that_may_not_be_read_is_left_out() -> None:
    def refuse() -> int:
        raise PermissionError("for root alone")

    with metered([Counter("c", refuse), Counter("d", lambda: 5)]) as meter:
        pass
    assert meter.joules() == {"d": 0.0}


def test_a_counter_that_fails_on_the_way_is_left_out() -> None:
    readings = iter([1, 2])

    def read() -> int:
        try:
            return next(readings)
        except StopIteration:
            raise OSError("gone") from None

    with metered([Counter("c", read)]) as meter:
        meter.read()
    assert meter.joules() is None


def test_graphics_cards_are_asked_where_the_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    assert nvml_counters() == []
    fake = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def energy(card: int) -> int:
        if card:
            raise NVMLError("not supported")
        return 7_000

    for name, value in {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda at: at,
        "nvmlDeviceGetTotalEnergyConsumption": energy,
    }.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml_counters()[0].read() == 7_000_000
    with metered(nvml_counters()) as meter:
        pass
    assert meter.joules() == {"gpu 0 (NVML)": 0.0}
