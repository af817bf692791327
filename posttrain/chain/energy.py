"""Energy of a step, from the machine's own counters: processor and memory (RAPL), graphics cards (NVML).

The counters belong to the machine, not to a process: what else runs on it is counted too. Where none can be read
nothing is guessed. NVML is asked only when the package nvidia-ml-py is installed. A RAPL counter starts again at zero
after as little as ten busy minutes, so it is read once a minute.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
READ_EVERY_S = 60.0


@dataclass(frozen=True)
class Counter:
    """A growing count of microjoules; `read` raises OSError where it cannot be read."""

    name: str
    read: Callable[[], int]
    wraps_at: int | None = None  # microjoules after which it starts again at zero


def rapl_counters(root: Path = POWERCAP) -> list[Counter]:
    """Packages and their memory; the parts of a package would be counted twice."""
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):  # AMD processors are listed under this name too
        try:
            name = (zone / "name").read_text().strip()
            wraps_at = int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue
        if name.startswith("package") or name == "dram":
            found.append(Counter(f"{name} ({zone.name})", _file_reader(zone / "energy_uj"), wraps_at))
    return found


def _file_reader(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text())


def nvml_counters() -> list[Counter]:
    """Every graphics card that NVML shows; none without nvidia-ml-py, a driver or a counter."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        cards = [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []

    def reader(card: object) -> Callable[[], int]:
        def read() -> int:
            try:
                return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(card)) * 1000
            except pynvml.NVMLError as error:
                raise OSError(str(error)) from None

        return read

    return [Counter(f"gpu {at} (NVML)", reader(card)) for at, card in enumerate(cards)]


@dataclass
class Meter:
    """Joules by counter since the start. A counter that fails once is left out for good."""

    last: dict[Counter, int] = field(default_factory=dict)
    used: dict[Counter, int] = field(default_factory=dict)  # microjoules

    def read(self) -> None:
        for counter, before in list(self.last.items()):
            try:
                now = counter.read()
            except OSError:
                del self.last[counter], self.used[counter]
                continue
            again = counter.wraps_at or 0
            self.used[counter] += now - before if now >= before else now + again - before
            self.last[counter] = now

    def joules(self) -> dict[str, float] | None:
        """None where nothing could be read: not measured is not zero."""
        found = {counter.name: round(used / 1e6, 1) for counter, used in self.used.items()}
        return found or None


@contextmanager
def metered(counters: Sequence[Counter] | None = None, every_s: float = READ_EVERY_S) -> Iterator[Meter]:
    """A meter that runs while the block does; read `joules` after it."""
    meter = Meter()
    for counter in rapl_counters() + nvml_counters() if counters is None else counters:
        try:
            meter.last[counter] = counter.read()
        except OSError:  # RAPL is often for root alone
            continue
        meter.used[counter] = 0
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            meter.read()

    thread = threading.Thread(target=watch, daemon=True)
    if meter.last:
        thread.start()
    try:
        yield meter
    finally:
        over.set()
        if meter.last and thread.is_alive():
            thread.join()
        meter.read()
