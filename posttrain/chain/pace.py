"""How fast work goes and how long it will take: what an earlier run made is progress, but no speed."""

from dataclasses import dataclass

AT_ONCE_S = 0.5  # what is there so soon was made before


@dataclass
class Pace:
    """Units done of `total` (0 while it is not known) on a clock of seconds."""

    total: int
    opened: float
    done: int = 0
    told: float = 0.0  # when `done` was reported last
    begun: tuple[int, float] | None = None  # units that were there, and when counting began

    def reach(self, done: int, total: int | None, now: float) -> None:
        """`done` units are made, of a total that may only now be known."""
        self.done, self.total, self.told = done, total or self.total, now
        if self.begun is None:
            self.begun = (done, now) if now - self.opened < AT_ONCE_S else (0, self.opened)

    def rate(self) -> float:
        """Units a second up to the last report; 0 before there is one to speak of."""
        if self.begun is None:
            return 0.0
        return (self.done - self.begun[0]) / max(self.told - self.begun[1], AT_ONCE_S)

    def left(self, now: float) -> float | None:
        """Seconds to go, less those since the last report; None while nobody can know."""
        rate = self.rate()
        return max(0.0, (self.total - self.done) / rate - (now - self.told)) if rate else None

    @property
    def over(self) -> bool:
        return 0 < self.total <= self.done
