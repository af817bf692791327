"""Checkpoints as safetensors: weights, optimizer moments, step and loss curve; whole or absent on the disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Curve = list[tuple[int, float]]
NAME = "checkpoint.safetensors"


def save_checkpoint(
    work: Path, model: "PreTrainedModel", optimizers: Sequence["torch.optim.Optimizer"], step: int, curve: Curve
) -> None:
    """Replace the checkpoint in `work` in one rename."""
    from safetensors.torch import save_file

    from posttrain.lm.saving import disk_full_as_oserror

    tensors = {f"model.{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in _owner(optimizers, parameter).state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value.detach().cpu().contiguous()
    temporary = work / (NAME + ".tmp")
    with disk_full_as_oserror(work):
        save_file(tensors, temporary, metadata={"step": str(step), "curve": json.dumps(curve)})
    temporary.replace(work / NAME)


def load_checkpoint(
    work: Path, model: "PreTrainedModel", optimizers: Sequence["torch.optim.Optimizer"]
) -> tuple[int, Curve]:
    """Restore in place; (0, []) when there is no checkpoint."""
    import torch
    from safetensors import safe_open

    path = work / NAME
    if not path.is_file():
        return 0, []
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        keys = set(file.keys())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                prefix = f"optimizer.{name}."
                _owner(optimizers, parameter).state[parameter] = {
                    key.removeprefix(prefix): file.get_tensor(key).to(
                        parameter.device if not key.endswith(".step") else "cpu"
                    )
                    for key in sorted(keys)
                    if key.startswith(prefix)
                }
    return int(metadata["step"]), [(int(step), float(loss)) for step, loss in json.loads(metadata["curve"])]


def _owner(optimizers: Sequence["torch.optim.Optimizer"], parameter: "torch.Tensor") -> "torch.optim.Optimizer":
    """The one optimizer that trains a parameter."""
    owners = [o for o in optimizers for group in o.param_groups if any(p is parameter for p in group["params"])]
    return owners[0]
