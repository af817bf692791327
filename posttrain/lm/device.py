"""Where tensors live and in which precision: the one place that asks what this machine has."""

import contextlib
from functools import cache


def device() -> str:
    """`cuda` when there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def has_fast_bf16(kind: str) -> bool:
    """True where bf16 matrix products beat fp32: CUDA from Ampere on, CPUs with bf16 instructions."""
    import torch

    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def autocast(kind: str) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast where it pays, else nothing."""
    import torch

    if has_fast_bf16(kind):
        return torch.autocast(kind, dtype=torch.bfloat16)
    return contextlib.nullcontext()
