"""A base read in 4 bits while an adapter is trained on it: QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

The adapter is an ordinary one: later it is merged into the base as it is on the disk, never into the 4-bit one.
"""

from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.lm.device import device
from posttrain.lm.models import ADAPTER
from posttrain.lm.sft import mixed_precision

BLOCK = 64  # numbers that share a scale


def load_nf4(path: Path) -> Any:
    """The model with its linear layers, the head apart, in NF4 with double quantisation; on this machine's device.

    On a CPU bitsandbytes 0.50 would turn weights into another layout at the first evaluation: no gradient comes through
    it, and without double quantisation what is then saved is damaged.
    """
    import torch
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from posttrain.lm.quiet import quiet_libraries

    quiet_libraries()
    check_widths(path)
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if mixed_precision() else torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=how, dtype=torch.float32, device_map={"": device()}, use_safetensors=True
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def check_widths(path: Path) -> None:
    """Refuse an adapter, and on a CPU widths that bitsandbytes 0.50 would give wrong weights for."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    if (path / ADAPTER).is_file():
        raise PosttrainError(
            "sft.quantization: the model is an adapter on a base; a whole model is needed to be read in 4 bits. "
            "Name the base, or leave quantization out."
        )
    if device() != "cpu":
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings() and module.in_features % BLOCK:
            raise PosttrainError(
                f"sft.quantization: {name} is {module.in_features} wide; multiples of {BLOCK} are allowed for nf4 on a "
                "CPU. Leave quantization out, or train on a GPU."
            )
