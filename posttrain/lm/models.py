"""Loading and preparing models: any local directory that transformers reads, adapters included; safetensors only."""

import json
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.lm.chat import TEMPLATE
from posttrain.lm.saving import disk_full_as_oserror
from posttrain.lm.tokenizer import CHAT_TOKENS, END, PAD

ADAPTER = "adapter_config.json"


def load_tokenizer(path: Path) -> Any:
    """The fast tokenizer of a model or adapter directory, as its tokenizer.json has it.

    The classes that AutoTokenizer chooses are built anew from vocabulary and merges (transformers 5): Llama's then has
    no normaliser, SmolLM's cuts numbers in another way, and neither is what the model was trained with.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        kind = PreTrainedTokenizerFast if (path / "tokenizer.json").is_file() else AutoTokenizer
        tokenizer = kind.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise PosttrainError(
            f"{path}: no tokenizer can be loaded ({_first_line(error)}). Check the directory."
        ) from None
    if not tokenizer.is_fast:
        raise PosttrainError(f"{path}: a slow tokenizer; a fast one (tokenizer.json) is needed. Convert it first.")
    return tokenizer


def load_model(path: Path) -> Any:
    """A causal language model in fp32 on the CPU, an adapter merged into its base."""
    if (path / ADAPTER).is_file():
        from peft import PeftModel

        base = load_model(base_of(path))
        return PeftModel.from_pretrained(base, path).merge_and_unload().requires_grad_(True)  # peft had frozen it
    import torch
    from transformers import AutoModelForCausalLM

    from posttrain.lm.quiet import quiet_libraries

    quiet_libraries()
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise PosttrainError(
            f"{path}: no model can be loaded ({_first_line(error)}). A directory with config.json and "
            "safetensors weights is needed."
        ) from None
    return model


def base_of(adapter: Path) -> Path:
    """The directory that an adapter says it belongs to."""
    from posttrain.chain.paths import find_path

    name = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    path = find_path(name)
    if not path.is_dir():
        raise PosttrainError(f"{adapter}: its base model {name} is not here; it is needed. Restore that directory.")
    return path


def root_of(path: Path) -> Path:
    """The model below all adapters; a directory that is no adapter is its own root."""
    while (path / ADAPTER).is_file():
        path = base_of(path)
    return path


def add_chat_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Give a model without a chat template our four chat tokens; returns the new ids (to be trained by sft).

    New embedding rows start at the mean of the old ones; a tied head stays tied.
    """
    import torch

    before = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [t for t in CHAT_TOKENS if t not in (END, PAD)]})
    tokenizer.add_special_tokens({"eos_token": END, "pad_token": PAD})
    bos = "{{- bos_token -}}" if tokenizer.bos_token else ""
    tokenizer.chat_template = bos + TEMPLATE
    tied = model.config.tie_word_embeddings
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for layer in {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings())}.values():
                layer.weight[rows:] = layer.weight[:rows].mean(dim=0)
    if tied:
        model.tie_weights()
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return list(range(before, len(tokenizer)))


def save_model(model: Any, tokenizer: Any, path: Path) -> None:
    """Write safetensors and tokenizer as transformers loads them."""
    path.mkdir(exist_ok=True)
    with disk_full_as_oserror(path):
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)


def parameters(model: Any) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
