"""Two LoRA adapters, the second trained on the merged first, as one adapter of the first one's base.

W + s1 B1 A1 + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2]: the ranks add up, and nothing is approximated.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from posttrain.errors import PosttrainError
from posttrain.lm.saving import disk_full_as_oserror

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
A, B = ".lora_A.weight", ".lora_B.weight"
Tensors = dict[str, Tensor]


def concatenate(first: Path, second: Path, out: Path) -> None:
    """Write to `out` the adapter of `first`'s base that does what `first`, merged, and then `second` do.

    Embeddings that the first one trained come along. Raises PosttrainError for adapters that are more than low-rank
    sums: DoRA, ranks or scales by module, and token embeddings in the second.
    """
    configs = [json.loads((path / CONFIG).read_text(encoding="utf-8")) for path in (first, second)]
    for path, config in zip((first, second), configs, strict=True):
        _check(path, config)
    one, two = (load_file(path / WEIGHTS) for path in (first, second))
    extra = sorted(name for name in two if not name.endswith((A, B)))
    if extra:
        raise PosttrainError(
            f"{second}: holds {extra[0]}; matrices of a LoRA alone are allowed in an adapter that is added to another. "
            "Train it without token embeddings."
        )
    modules = sorted({name.removesuffix(A) for name in (*one, *two) if name.endswith(A)})
    made = {name: tensor for name, tensor in one.items() if not name.endswith((A, B))}
    for module in modules:
        made |= _joined(module, one, two, configs)
    ranks = sum(config["r"] for config in configs)
    names = sorted({module.rpartition(".")[2] for module in modules})
    joined = {**configs[0], "r": ranks, "lora_alpha": ranks, "use_rslora": False, "target_modules": names}
    out.mkdir(parents=True, exist_ok=True)
    with disk_full_as_oserror(out):
        save_file({name: tensor.contiguous() for name, tensor in sorted(made.items())}, out / WEIGHTS, {"format": "pt"})
        (out / CONFIG).write_text(json.dumps(joined, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def scaling(config: dict[str, Any]) -> float:
    """What B A is multiplied with (Hu et al. 2021; Kalajdzievski 2023 for rsLoRA)."""
    rank: int = config["r"]
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _joined(module: str, one: Tensors, two: Tensors, configs: list[dict[str, Any]]) -> Tensors:
    """Both adapters of a module end to end; zeros where one of them has none there."""
    downs, ups = [], []
    width = next(tensors[module + A] for tensors in (one, two) if module + A in tensors).shape[1]
    height = next(tensors[module + B] for tensors in (one, two) if module + B in tensors).shape[0]
    for tensors, config in zip((one, two), configs, strict=True):
        rank = config["r"]
        downs.append(tensors.get(module + A, torch.zeros(rank, width)).float())
        ups.append(tensors.get(module + B, torch.zeros(height, rank)).float() * scaling(config))
    return {module + A: torch.cat(downs, dim=0), module + B: torch.cat(ups, dim=1)}


def _check(path: Path, config: dict[str, Any]) -> None:
    odd = [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(name)]
    if config.get("peft_type") != "LORA" or odd:
        raise PosttrainError(
            f"{path}: an adapter with {odd[0] if odd else config.get('peft_type')}; a plain LoRA is allowed where two "
            "adapters are joined. Merge it into its base instead."
        )
