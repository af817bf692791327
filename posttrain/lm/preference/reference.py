"""The model that training started from, which implicit rewards are measured against: a copy, or the adapter off.

TRL, given none, reads it again from the directory that the model's config names. That is another model wherever the
one in memory has been trained or merged since, and the loss then starts away from ln 2 without a word. So nothing is
read from disk here.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import nn

from posttrain.errors import PosttrainError


def frozen_copy(model: Any) -> Any:
    """The same model beside it, in eval mode and without gradients."""
    reference = copy.deepcopy(model)
    reference.requires_grad_(False)
    return reference.eval()


@contextmanager
def as_it_was(model: Any) -> Iterator[None]:
    """Give back the special tokens and dropout rates that TRL's trainers write over."""
    configs = (model.config.get_text_config(), model.generation_config)
    padding = [config.pad_token_id for config in configs]
    dropout = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    try:
        yield
    finally:
        for config, token in zip(configs, padding, strict=True):
            config.pad_token_id = token
        for module, rate in dropout:
            module.p = rate


def check_model(model: Any) -> None:
    """Refuse a model of which nothing trains, and adapters that TRL's losses would pass over."""
    if not any(weight.requires_grad for weight in model.parameters()):
        raise PosttrainError(
            "model: none of its weights is trainable (merging an adapter leaves them frozen); some are needed. Call "
            "requires_grad_(True), or add a fresh adapter."
        )
    if not isinstance(model, PeftModel):
        return
    if list(model.peft_config) != ["default"]:
        raise PosttrainError(
            f"model: it has the adapters {', '.join(model.peft_config)}; one fresh adapter named 'default' is allowed, "
            "whose base is the reference. Merge the others first."
        )
    head = model.get_base_model().get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise PosttrainError(
            f"model: its output head is adapted ({type(head).__name__}); a plain one is allowed, because the losses "
            "read its weight and would not see the adapter. Leave the head and train_token_ids out of the LoRA."
        )
