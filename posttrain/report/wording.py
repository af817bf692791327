"""How figures are written for people: few digits, a unit, and words where there is no figure."""

from collections.abc import Iterator, Mapping
from typing import Any

SIGNS = {"PASS": "✓", "FAIL": "✕", "INCONCLUSIVE": "≈", "BASELINE": "○", "JUDGE INVALID": "!"}


def duration(seconds: float) -> str:
    """`0.3 s`, `25 s`, `3.9 min`, `1 h 12 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if seconds < 3570 else f"{minutes // 60} h {minutes % 60} min"


def memory(megabytes: float) -> str:
    """`517 MB`, `1.12 GB`."""
    return f"{megabytes:,.0f} MB" if megabytes < 999.5 else f"{megabytes / 1000:,.2f} GB"


def energy(joules: float | None) -> str:
    """`840 J`, `12.3 kJ`; what was not measured is not zero."""
    if joules is None:
        return "not measured"
    return f"{joules:,.0f} J" if joules < 1000 else f"{joules / 1000:,.1f} kJ"


def dollars(usd: float | None) -> str:
    """`$1.20`, `$0.0042`: what is less than a cent is not nothing, and what has no known price is not free."""
    if usd is None:
        return "price not known"
    if 0 < usd < 0.0001:
        return "<$0.0001"
    return f"${usd:.4f}" if 0 < usd < 0.01 else f"${usd:,.2f}"


def percent(share: float) -> str:
    """`71 %`; what is not quite none or all is not rounded to it."""
    shown = f"{100 * share:.0f} %"
    if shown == "0 %" and share > 0:
        return "under 1 %"
    return "over 99 %" if shown == "100 %" and share < 1 else shown


def interval(rate: Mapping[str, float]) -> str:
    """`63 % [52, 73]` of a share with its interval."""
    return f"{percent(rate['score'])} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def count(number: float | None) -> str:
    """`7,900`; nothing where there is nothing to count."""
    return "–" if number is None else f"{number:,.0f}"


def moment(iso: str) -> str:
    """`2026-11-21 13:13 UTC` of an ISO time in UTC."""
    return iso[:16].replace("T", " ") + " UTC"


def change(value: float | None, places: int = 1) -> str:
    """`+0.4`, `−1.2`, `±0`; nothing where two steps cannot be compared."""
    if value is None:
        return ""
    shown = f"{value:+.{places}f}"
    return "±0" if not float(shown) else shown.replace("-", "−")


def verdict_class(verdict: str) -> str:
    """The page's class for a verdict; words and a sign stand beside its colour."""
    return "v-" + (verdict.lower().replace(" ", "-") if verdict in SIGNS else "none")


def verdict_sign(verdict: str) -> str:
    return SIGNS.get(verdict, "–")


def flat(value: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    """Settings as `lora.r` and `16`, in their order."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{at}{key}.")
        else:
            yield f"{at}{key}", _plain(item)


def _plain(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value) if value != {} else "none"
