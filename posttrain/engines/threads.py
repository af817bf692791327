"""How many threads a model gets on a CPU: more than its matrices can share make it slower, and wait for each other."""

import os

ONE_THREAD = 50_000_000  # bytes of weights; below, a second thread costs more than it does


def threads_for(size: int) -> int:
    """One for a file of few bytes; else what `OMP_NUM_THREADS` or the machine gives."""
    if size < ONE_THREAD:
        return 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else os.cpu_count() or 1
