"""LLM.int8 through transformers and bitsandbytes: a directory that plain `from_pretrained` loads back.

Every linear layer but the head is stored as int8 rows with one fp32 scale a row; embeddings, head and norms are cast to
bf16 (Dettmers et al. 2022, arXiv 2208.07339). In fp32 the file of our model of 1.5M parameters would be half as large
again, for a mean KL of 0.00033 nat instead of 0.00038. 4 bits are not offered: on a CPU, NF4 gives wrong weights where
a row is no multiple of 64, and saving damages a live model that is quantised without double quantisation.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.exporting.companions import (
    check_tied,
    is_tied,
    load_merged,
    sizes,
    stored_tensors,
    whole_directory,
    write_companions,
)

NOISY = "bitsandbytes"  # a line a layer and token about a cast that is meant, one about 4-bit kernels


def write(model_dir: Path, out: Path, name: str, bits: int = 8) -> dict[str, Any]:
    """Merge in fp32, cast, quantise, save. Returns facts: sizes, which tensors are int8 and which matrices are not."""
    if bits != 8:
        raise PosttrainError(
            f"bnb-int8 of {model_dir}: {bits} bits; 8 are allowed, because NF4 corrupts weights on a CPU. "
            "Use 8 bits, or gguf-q8_0."
        )
    model, tokenizer = load_merged(model_dir)
    expected = linear_layers(model)
    if not expected:
        raise PosttrainError(
            f"{model_dir}: a {model.config.model_type} has no linear layers that bitsandbytes replaces; at least one "
            "is needed. Choose another format."
        )
    with whole_directory(out) as folder:
        _save_quantised(model, folder)
        write_companions(model, tokenizer, folder)
        tensors = stored_tensors(folder)
        check_tied(model, set(tensors), str(model_dir))
        quantised = {key.removesuffix(".weight") for key, kind in tensors.items() if kind == "I8"}
        check_quantised(expected, quantised, str(model_dir))
        matrices = {key.removesuffix(".weight") for key, value in model.named_parameters() if value.ndim > 1}
        return {
            "name": name,
            "files": sizes(folder),
            "quantised": len(quantised),
            "unquantised": sorted(matrices - quantised),
            "tied": is_tied(model),
        }


def linear_layers(model: Any) -> set[str]:
    """Names of the layers that must be int8: all linear ones but the head."""
    import torch

    head = model.get_output_embeddings()
    return {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    }


def check_quantised(expected: set[str], quantised: set[str], where: str) -> None:
    """Quantisers pass over what they do not know, without a word."""
    if expected != quantised:
        raise PosttrainError(
            f"{where}: {len(quantised)} layers became int8, of {len(expected)} linear ones (first difference: "
            f"{min(expected ^ quantised)}); all of them are needed. Choose another format."
        )


def _save_quantised(model: Any, folder: Path) -> None:
    """bitsandbytes quantises while transformers loads, so the merged model is put down once more, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    logging.getLogger(NOISY).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=folder) as merged:
        model.save_pretrained(merged)
        quantised = AutoModelForCausalLM.from_pretrained(
            merged, dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(load_in_8bit=True), device_map="cpu"
        )
    quantised.save_pretrained(folder)
