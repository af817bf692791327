"""What is checked before a judge is heard: a figure, the line it is held to, and whether it holds."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """One check. `ok` is None where nothing can be told, and the note says why; a hard one that fails is a FAIL."""

    name: str
    value: float | None
    limit: float | None
    ok: bool | None
    note: str  # a few words with the figures, for the sentence that says why
    hard: bool = True

    def record(self) -> dict[str, Any]:
        """For metrics: rounded, since the last digits of a bootstrap say nothing."""
        return {**self._asdict(), "value": _rounded(self.value), "limit": _rounded(self.limit)}


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)


def failed(findings: Sequence[Finding], hard: bool) -> list[Finding]:
    """Those that do not hold; what cannot be told has not failed."""
    return [finding for finding in findings if finding.ok is False and finding.hard == hard]
