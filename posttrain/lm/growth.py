"""A larger model that computes what a smaller one does, before it is trained on.

What the smaller one has learned is kept, and the new weights begin to matter with the first steps (function-preserving
growth: Net2Net, Chen, Goodfellow and Shlens 2016, arXiv 1511.05641; stacked layers: Gong et al. 2019). New layers stand
behind the old ones evenly, as copies whose outputs are zero; new neurons of a layer have outputs that are zero.
"""

import copy
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.chain.stage import Config
from posttrain.errors import PosttrainError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Growth(Config):
    """The larger shape, in the words of transformers' LlamaConfig; what is left out stays."""

    num_hidden_layers: int | None = Field(None, ge=1)
    intermediate_size: int | None = Field(None, ge=1)


def grown(model: "PreTrainedModel", shape: Growth, seed: int) -> "PreTrainedModel":
    """A Llama of the larger shape with the same logits, in fp32; `seed` draws what new neurons look at."""
    import torch

    if model.config.model_type != "llama":
        kind = model.config.model_type
        raise PosttrainError(
            f"base.grow: found a {kind} model; a llama is allowed. Delete 'grow', or name another model."
        )
    config = copy.deepcopy(model.config)
    old_layers, old_width = config.num_hidden_layers, config.intermediate_size
    config.num_hidden_layers = _larger("num_hidden_layers", old_layers, shape.num_hidden_layers)
    config.intermediate_size = _larger("intermediate_size", old_width, shape.intermediate_size)
    torch.manual_seed(seed)
    larger: PreTrainedModel = type(model)(config).float()
    origin = _origins(old_layers, config.num_hidden_layers)
    known = {name: tensor.float() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for name, tensor in larger.state_dict().items():
            layer, place = _placed(name)
            source = known[name if layer is None else f"model.layers.{origin[layer]}.{place}"]
            is_new = layer is not None and layer > 0 and origin[layer] == origin[layer - 1]
            _fill(tensor, source, place, is_new)
    return larger


def _larger(name: str, old: int, new: int | None) -> int:
    if new is not None and new < old:
        raise PosttrainError(f"base.grow.{name}: found {new}; the model has {old}, and only more is allowed. Raise it.")
    return old if new is None else new


def _origins(old: int, new: int) -> list[int]:
    """For each new layer the old one that it is, or that it is a silent copy of: 0 0 1 1 2 2 for six of three."""
    return [at * old // new for at in range(new)]


def _placed(name: str) -> tuple[int | None, str]:
    """`model.layers.3.mlp.up_proj.weight` is (3, "mlp.up_proj.weight"); what is in no layer has None."""
    head, _, rest = name.partition("layers.")
    number, _, place = rest.partition(".")
    return (int(number), place) if head == "model." and number.isdigit() else (None, name)


def _fill(tensor: "torch.Tensor", source: "torch.Tensor", place: str, is_new: bool) -> None:
    """Copy a weight into the corner of a larger one; what a new neuron or layer says is zero."""
    if place in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        tensor.zero_()
        if is_new:
            return
    tensor[tuple(slice(size) for size in source.shape)] = source
