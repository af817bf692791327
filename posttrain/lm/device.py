"""Where tensors live and in which precision: the one place that asks what this machine has."""

import contextlib
import platform
from functools import cache
from pathlib import Path


def device() -> str:
    """`cuda` when there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def has_fast_bf16(kind: str) -> bool:
    """True where bf16 matrix products are faster than fp32: CUDA from Ampere on, x86 with avx512_bf16 or amx."""
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.system() != "Linux":
        return False
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(kind: str) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast where it pays, else nothing."""
    import torch

    if has_fast_bf16(kind):
        return torch.autocast(kind, dtype=torch.bfloat16)
    return contextlib.nullcontext()
