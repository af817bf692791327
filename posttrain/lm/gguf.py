"""Write a model directory as one GGUF file, which llama.cpp, Ollama and their kin run.

Weights are merged and read in fp32, then cast once. The file is either absent or whole.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gguf
from gguf import GGMLQuantizationType as Cast

from posttrain.errors import PosttrainError
from posttrain.lm.gguf_vocabulary import read_vocabulary, write_vocabulary
from posttrain.lm.models import load_model, load_tokenizer, parameters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

Kind = Literal["f32", "f16", "q8_0"]
CASTS: dict[Kind, Cast] = {"f32": Cast.F32, "f16": Cast.F16, "q8_0": Cast.Q8_0}
FILE_TYPES: dict[Kind, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
LARGEST = {Cast.F32: 3.4028235e38, Cast.F16: 65504.0, Cast.Q8_0: 127 * 65504.0}  # q8_0 has a float16 scale


class Written(NamedTuple):
    """What a file holds: names of the matrices by cast. Vectors (norms, biases) are always fp32."""

    cast: tuple[str, ...]  # in the kind that was asked for
    half: tuple[str, ...]  # asked for as q8_0, kept in f16: rows that are no multiple of 32


class Tensor(NamedTuple):
    """A tensor in fp32 under its GGUF name, and how it is to be stored."""

    name: str
    values: "Array"
    cast: Cast


def write_gguf(model_dir: Path, path: Path, kind: Kind = "f16", name: str | None = None) -> Written:
    """Write a Llama, Qwen2 or Qwen3 directory to `path`; an adapter is merged into its base first.

    `name` is the model's name in the file. A tied head is left out, as llama.cpp expects. Others are refused by name.
    """
    model, tokenizer, where = load_model(model_dir), load_tokenizer(model_dir), str(model_dir)
    config = model.config
    check_architecture(config, where)
    writer = gguf.GGUFWriter(None, config.model_type)
    _add_general(writer, name or model_dir.resolve().name, parameters(model), kind)
    _add_shape(writer, config)
    stops = model.generation_config.eos_token_id
    stop_ids = stops if isinstance(stops, list) else [] if stops is None else [stops]
    write_vocabulary(writer, read_vocabulary(tokenizer, config.vocab_size, stop_ids, where))
    tensors = list(_tensors(model, kind, where))
    for tensor in tensors:
        data = tensor.values if tensor.cast == Cast.F32 else gguf.quantize(tensor.values, tensor.cast)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.cast)
    _write_whole(writer, path)
    matrices = [tensor for tensor in tensors if tensor.values.ndim == 2]
    return Written(
        cast=tuple(tensor.name for tensor in matrices if tensor.cast == CASTS[kind]),
        half=tuple(tensor.name for tensor in matrices if tensor.cast != CASTS[kind]),
    )


def check_architecture(config: Any, where: str) -> None:
    """Refuse, by name, what llama.cpp would run as another model than transformers does."""
    if config.model_type not in ARCHITECTURES:
        raise PosttrainError(
            f"{where}: model_type {config.model_type}; {', '.join(ARCHITECTURES)} are allowed in GGUF. "
            "Choose another export format."
        )
    rope = config.rope_parameters
    settings = config.to_dict()
    ropes = ("default", "llama3") if config.model_type == "llama" else ("default",)
    for key, found, allowed in (
        ("rope_type", rope["rope_type"], ropes),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), (1.0,)),
        ("hidden_act", config.hidden_act, ("silu",)),
        ("use_sliding_window", settings.get("use_sliding_window", False), (False,)),
        ("quantization_config", settings.get("quantization_config"), (None,)),
    ):
        if found not in allowed:
            raise PosttrainError(
                f"{where}: {key} {found} of a {config.model_type}; {', '.join(map(str, allowed))} allowed in GGUF. "
                "Choose another export format."
            )


def _add_general(writer: gguf.GGUFWriter, name: str, size: int, kind: Kind) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(size, 0, 0, 0))
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def head_size(config: Any) -> int:
    """Numbers a head; Qwen2's config does not say it."""
    return int(config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads)


def _tensors(model: Any, kind: Kind, where: str) -> Iterator[Tensor]:
    """Every tensor of the model, in its own order, renamed, and rearranged where llama.cpp wants that."""
    config = model.config
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    if config.rope_parameters["rope_type"] == "llama3":
        yield Tensor("rope_freqs.weight", _rope_divisors(model), Cast.F32)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for key, weight in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise PosttrainError(
                f"{where}: tensor {key}; GGUF has no name for it in a {config.model_type}. Choose another format."
            )
        values = weight.numpy()
        if config.model_type == "llama" and key.split(".")[-2] in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if ".q_proj." in key else config.num_key_value_heads
            values = interleave_halves(values, heads)
        yield Tensor(name, values, _cast(name, values, kind, where))


def interleave_halves(values: "Array", heads: int) -> "Array":
    """Rows of q or k: transformers rotates the first half of a head with the second, llama.cpp neighbours."""
    pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _rope_divisors(model: Any) -> "Array":
    """Llama 3's rope as llama.cpp takes it: what each frequency is divided by, (head size / 2,) in fp32."""
    import numpy as np

    size = head_size(model.config)
    plain = model.config.rope_parameters["rope_theta"] ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    divisors: Array = (plain / model.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)
    return divisors


def _cast(name: str, values: "Array", kind: Kind, where: str) -> Cast:
    """How a tensor is stored; what would not survive the cast is refused."""
    import numpy as np

    if values.ndim == 1:
        cast = Cast.F32
    elif kind == "q8_0" and values.shape[-1] % gguf.GGML_QUANT_SIZES[Cast.Q8_0][0]:
        cast = Cast.F16
    else:
        cast = CASTS[kind]
    largest = float(np.abs(values).max())
    if not largest <= LARGEST[cast]:  # NaN is refused too
        raise PosttrainError(
            f"{where}: {name} holds {largest:g}; at most {LARGEST[cast]:g} is allowed in {cast.name}. "
            "Export as f32, or find out where the training broke."
        )
    return cast


def _write_whole(writer: gguf.GGUFWriter, path: Path) -> None:
    """Write to a temporary name, flush to the disk, rename."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:  # numpy's own, for a write that came short
            raise OSError(errno.ENOSPC, "no space left on the device", str(path)) from error
        raise
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
