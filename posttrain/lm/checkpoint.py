"""Checkpoints as safetensors: weights, AdamW moments, step and loss curve; whole or absent on the disk."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Curve = list[tuple[int, float]]
NAME = "checkpoint.safetensors"


def save_checkpoint(
    work: Path, model: "PreTrainedModel", optimizer: "torch.optim.Optimizer", step: int, curve: Curve
) -> None:
    """Replace the checkpoint in `work` in one rename."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value.detach().cpu().contiguous()
    temporary = work / (NAME + ".tmp")
    save_file(tensors, temporary, metadata={"step": str(step), "curve": json.dumps(curve)})
    temporary.replace(work / NAME)


def load_checkpoint(work: Path, model: "PreTrainedModel", optimizer: "torch.optim.Optimizer") -> tuple[int, Curve]:
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
                optimizer.state[parameter] = {
                    key.removeprefix(prefix): file.get_tensor(key).to(
                        parameter.device if not key.endswith(".step") else "cpu"
                    )
                    for key in sorted(keys)
                    if key.startswith(prefix)
                }
    return int(metadata["step"]), [(int(step), float(loss)) for step, loss in json.loads(metadata["curve"])]
