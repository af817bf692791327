"""A merged model as bf16 safetensors: what vLLM, OpenVINO, RKLLM-Toolkit and others convert from (docs/export.md).

Converters are often held to transformers 4, which reads some settings under other names and passes over ours in
silence: a rope base of 1,000,000 would become 10,000. So those names are written too.
"""

import json
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
        for file, older in (("config.json", older_config), ("tokenizer_config.json", older_tokenizer)):
            settings = json.loads((folder / file).read_text(encoding="utf-8"))
            text = json.dumps(older(settings), indent=2, ensure_ascii=False)
            (folder / file).write_text(text + "\n", encoding="utf-8")
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


def older_config(settings: dict[str, Any]) -> dict[str, Any]:
    """A config with the names of transformers 4 beside those of 5."""
    older: dict[str, Any] = {"torch_dtype": settings["dtype"]}
    rope = settings.get("rope_parameters") or {}
    if "rope_theta" in rope:
        older["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return settings | older


def older_tokenizer(settings: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's settings with a class and a list of special tokens that transformers 4 and 5 both know."""
    plain = {key: value for key, value in settings.items() if key not in ("backend", "is_local", "local_files_only")}
    if plain.get("tokenizer_class") == "TokenizersBackend":
        plain["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(plain.get("extra_special_tokens"), list):
        plain["additional_special_tokens"] = plain.pop("extra_special_tokens")
    return plain
