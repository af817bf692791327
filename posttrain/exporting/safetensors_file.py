"""A merged model as bf16 safetensors: what vLLM, OpenVINO, RKLLM-Toolkit and others convert from (docs/export.md)."""

from pathlib import Path
from typing import Any

from posttrain.exporting.companions import (
    check_tied,
    is_tied,
    load_merged,
    sizes,
    stored_tensors,
    whole_directory,
    write_companions,
)
from posttrain.lm.models import parameters


def write(model_dir: Path, out: Path, name: str) -> dict[str, Any]:
    """Merge in fp32, cast once to bf16, save as transformers loads it. Returns facts: sizes, tensors, parameters."""
    import torch

    model, tokenizer = load_merged(model_dir)
    model.to(torch.bfloat16)
    with whole_directory(out) as folder:
        model.save_pretrained(folder)
        write_companions(model, tokenizer, folder)
        tensors = stored_tensors(folder)
        check_tied(model, set(tensors), str(model_dir))
        return {
            "name": name,
            "files": sizes(folder),
            "dtype": "bfloat16",
            "tensors": len(tensors),
            "parameters": parameters(model),
            "tied": is_tied(model),
        }
