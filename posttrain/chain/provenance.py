"""What is recorded beside a result and never enters its identity: versions, machine, commit, source hash."""

import os
import platform
import resource
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from posttrain import __version__
from posttrain.chain.identity import digest, sha256_file
from posttrain.chain.paths import PROJECT

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "numpy")


@cache
def source_hash(sources: tuple[str, ...]) -> str:
    """Digest of the Python files below `sources` (paths in the project)."""
    files: list[Path] = []
    for source in sources:
        path = PROJECT / source
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return digest({str(file.relative_to(PROJECT)): sha256_file(file) for file in files})


@cache
def _packages() -> dict[str, str]:
    return {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(PROJECT), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if platform.system() == "Darwin" else 1e3), 1)


def record(sources: tuple[str, ...], seconds: float, joules: dict[str, float] | None) -> dict[str, object]:
    """Provenance of one finished step; `joules` by counter, None where no counter can be read."""
    return {
        "posttrain": __version__,
        "commit": _commit(),
        "source": source_hash(sources),
        "python": platform.python_version(),
        "packages": _packages(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "seconds": round(seconds, 2),
        "peak_memory_mb": peak_memory_mb(),
        "joules": joules,
    }
