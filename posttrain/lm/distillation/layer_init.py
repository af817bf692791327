"""A student made of some of its teacher's layers, all else copied: DistilBERT's way of starting.

A model is more than its weights: layers of one list may attend differently, and a config that gives layer 4's
weights to a layer of another kind would load without a word. So the student is built from its own config, as it
will be when it is loaded from disk, and each of its layers must be built like the one it was copied from.
"""

import copy
from collections.abc import Sequence
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from posttrain.errors import PosttrainError
from posttrain.lm.losses import causal_parts

OF_THE_PLACE = ("layer_idx", "training", "gradient_checkpointing")  # what a layer is not: where and how it runs


def evenly_spaced(count: int, layers: int) -> list[int]:
    """`count` of the numbers 0 to `layers` - 1, the first and the last among them; only 0 where `count` is 1."""
    if not 1 <= count <= layers:
        raise PosttrainError(
            f"layers: {count} of a teacher's {layers} layers; 1 to {layers} are allowed. Choose fewer layers."
        )
    return [i * (layers - 1) // max(count - 1, 1) for i in range(count)]


def student_from_layers(teacher: Any, layers: Sequence[int]) -> Any:
    """A new causal LM with `layers` of `teacher` (rising, from 0), and copies of its embeddings, norms and head.

    The teacher is any transformers causal LM with one list of decoder layers, without an adapter; it is not
    changed, and no memory is shared. Hidden size, dtype, device, mode and generation settings are the teacher's;
    tied embeddings stay tied. All layers chosen give the teacher's logits bit for bit. Source: Sanh et al. 2019,
    arXiv 1910.01108, where every second layer is taken.
    """
    name = _layer_list(teacher)
    olds = teacher.get_submodule(name)
    _check_layers(layers, len(olds))
    student = AutoModelForCausalLM.from_config(
        _config(teacher.config, layers, len(olds)),
        dtype=teacher.dtype,
        attn_implementation=teacher.config._attn_implementation,
    )
    try:
        student.load_state_dict(_weights(teacher.state_dict(), name, layers))
    except RuntimeError as error:
        raise _unfit(layers, " ".join(str(error).split())[:300]) from error
    for place, (number, new) in enumerate(zip(layers, student.get_submodule(name), strict=True)):
        _check_alike(olds[number], new, number, place)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.to(teacher.device).train(teacher.training)


def _layer_list(model: Any) -> str:
    """The name of the one outermost module list of the decoder."""
    if isinstance(model, PeftModel):
        raise PosttrainError("teacher: a model with an adapter; a plain one is allowed. Merge the adapter first.")
    decoder = causal_parts(model).backbone
    lists = [name for name, module in decoder.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outermost) != 1:
        raise PosttrainError(
            f"teacher: {type(model).__name__} has {len(outermost)} lists of layers ({', '.join(outermost) or 'none'}); "
            "a causal language model with one is allowed. Start the student from scratch, or from another model."
        )
    return f"{model.base_model_prefix}.{outermost[0]}"


def _check_layers(layers: Sequence[int], there: int) -> None:
    missing = [number for number in layers if not 0 <= number < there]
    rising = sorted(set(layers)) == list(layers)
    if missing or not rising or not layers:
        found = (
            f"the teacher has no layer {missing[0]}" if missing else "these are not layers in rising order, each once"
        )
        raise PosttrainError(
            f"layers {list(layers)}: {found}; numbers from 0 to {there - 1}, rising, are allowed. "
            f"For 2 layers: {evenly_spaced(min(2, there), there)}."
        )


def _config(config: Any, layers: Sequence[int], there: int) -> Any:
    """The teacher's config for these layers alone, read from its own dictionary as a loaded one would be."""
    chosen = copy.deepcopy(config)
    chosen.num_hidden_layers = len(layers)
    chosen._name_or_path = ""  # it is no longer the model that lies there
    for key, value in config.to_dict().items():
        if "layer" in key and isinstance(value, list) and len(value) == there:  # layer_types and its kin
            setattr(chosen, key, [value[number] for number in layers])
    return type(config).from_dict(chosen.to_dict())


def _weights(weights: dict[str, Tensor], name: str, layers: Sequence[int]) -> dict[str, Tensor]:
    """The teacher's tensors under the names they have in the student; those of other layers are left out."""
    places = {f"{name}.{number}.": f"{name}.{place}." for place, number in enumerate(layers)}
    kept = {}
    for key, tensor in weights.items():
        old = next((prefix for prefix in places if key.startswith(prefix)), None)
        if old is not None:
            kept[places[old] + key.removeprefix(old)] = tensor
        elif not key.startswith(f"{name}."):
            kept[key] = tensor
    return kept


def _check_alike(old: nn.Module, new: nn.Module, number: int, place: int) -> None:
    """A layer may differ from its original in where it stands, and in nothing else that it knows of itself."""
    before, after = _traits(old), _traits(new)
    differing = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if differing:
        key = differing[0]
        raise _unfit([number], f"as layer {place} its {key} would be {after.get(key)} in place of {before.get(key)}")


def _unfit(layers: Sequence[int], reason: str) -> PosttrainError:
    return PosttrainError(
        f"layers {list(layers)}: the teacher's kind of model cannot be built with these ({reason}); layers that work "
        "the same at their new places are allowed. Choose other layers."
    )


def _traits(layer: nn.Module) -> dict[str, object]:
    """The plain settings of a layer and its parts, such as `self_attn.sliding_window`."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, module in layer.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and not key.startswith("_") and key not in OF_THE_PLACE
    }
