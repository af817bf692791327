"""What stands beside the weights of every exported directory: tokenizer, chat template, generation settings.

And the directory itself: it is either absent or whole. What answers stop at is made sure of here, because a runtime
reads it from these files alone, and a missing stop token is an answer without an end.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.lm.chat import MARKERS, ChatFormat
from posttrain.lm.models import load_model, load_tokenizer
from posttrain.lm.saving import disk_full_as_oserror


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A temporary directory that becomes `out` when the block ends well, and is gone when it does not."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PosttrainError(f"{out}: something is there already; an empty or new directory is needed. Name another.")
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        with disk_full_as_oserror(temporary):
            yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_merged(model_dir: Path) -> tuple[Any, Any]:
    """The model in fp32, adapter merged, and its tokenizer. Weights that are no numbers are refused."""
    model, tokenizer = load_model(model_dir).eval(), load_tokenizer(model_dir)
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise PosttrainError(
                f"{model_dir}: {name} holds infinite numbers or none; finite ones are needed. "
                "Find out where the training broke."
            )
    stops = stop_ids(model, tokenizer, str(model_dir))
    if stops:
        model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    return model, tokenizer


def stop_ids(model: Any, tokenizer: Any, where: str) -> list[int]:
    """Ids that end an answer: those of the generation settings, the tokenizer's, and the chat template's."""
    known = model.generation_config.eos_token_id
    found = list(known) if isinstance(known, list) else [] if known is None else [known]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
        if isinstance(tokenizer.chat_template, str) and MARKERS.search(tokenizer.chat_template):
            found += sorted(ChatFormat(tokenizer, where).stop_ids)
    return list(dict.fromkeys(found))


def write_companions(model: Any, tokenizer: Any, out: Path) -> None:
    """Tokenizer, chat template, config and generation settings; no path of this machine."""
    tokenizer.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    if not (out / "config.json").is_file():
        model.config.save_pretrained(out)


def is_tied(model: Any) -> bool:
    """The head is the embedding table."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def check_tied(model: Any, tensors: set[str], where: str) -> None:
    """A tied head must not be in the file as a tensor of its own, or it could change alone."""
    if is_tied(model) and "lm_head.weight" in tensors:
        raise PosttrainError(
            f"{where}: lm_head.weight is stored beside the embeddings that it is tied to; one of them is needed. "
            "Set tie_word_embeddings in config.json to what the weights are."
        )


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file, by name."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def tensor_names(path: Path) -> dict[str, str]:
    """Tensors of a safetensors file and their data types, by its header."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: str(tensor["dtype"]) for name, tensor in header.items() if name != "__metadata__"}


def stored_tensors(folder: Path) -> dict[str, str]:
    """Tensors of all safetensors files of a directory, shards included, and their data types."""
    return {name: kind for path in sorted(folder.glob("*.safetensors")) for name, kind in tensor_names(path).items()}
