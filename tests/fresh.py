"""Logits of an exported directory in a fresh process, which has nothing but the files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
TRANSFORMERS = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([list(map(int, sys.argv[3].split(",")))])
with torch.inference_mode():
    save_file({"logits": model(ids).logits[0].float().contiguous()}, sys.argv[2])
assert not any(name.startswith("posttrain") for name in sys.modules)
"""
ONNX = """
import sys
from pathlib import Path
from typing import Any
from safetensors.numpy import save_file
from posttrain.exporting.onnx_runtime import OnnxRuntime
with OnnxRuntime(Path(sys.argv[1]), threads=1) as runtime:
    save_file({"logits": runtime.prefill(list(map(int, sys.argv[3].split(","))))[0]}, sys.argv[2])
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def fresh_logits(code: str, folder: Path, ids: list[int], scratch: Path) -> torch.Tensor:
    """Logits [tokens, vocabulary] of one row."""
    made = scratch / "fresh.safetensors"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder), str(made), ",".join(map(str, ids))],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return load_file(made)["logits"]


def machine_paths(folder: Path, *known: Path) -> list[str]:
    """Files that hold a path of this machine: the project's, the libraries', the home's, or one that is given."""
    paths = [ROOT, Path(torch.__file__).parents[1], Path.home() / "x", Path(sys.prefix), *known]
    signs = [str(path).encode().removesuffix(b"x") for path in paths]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if any(sign in path.read_bytes() for sign in signs))


def far(found: Any, exact: Any) -> float:
    """Length of the difference of two arrays, as a share of the second's."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
