"""A GGUF file as people expect to find one: NAME-Q8_0.gguf, a Modelfile for Ollama, and the command lines beside it."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, cast

import gguf

from posttrain.errors import PosttrainError
from posttrain.exporting.companions import whole_directory
from posttrain.exporting.ollama import go_template
from posttrain.lm.gguf import CASTS, Kind, write_gguf
from posttrain.lm.models import load_tokenizer

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MATRICES_A_BLOCK = 7  # q k v o gate up down
END_KEYS = ("eos", "eot", "eom")
PLAIN = {"top_k": "0", "top_p": "1", "min_p": "0", "repeat_penalty": "1"}  # what the file was measured with


class Inside(NamedTuple):
    """What a GGUF file says of itself."""

    architecture: str
    context: int
    stops: tuple[str, ...]
    bos: str  # "" where the runtime adds none
    matrices: dict[str, str]  # kind of storage by name
    expected: int  # matrices that a model of this shape has


def write(model_dir: Path, out: Path, name: str, kind: str) -> dict[str, Any]:
    """Write `out`/NAME-KIND.gguf, Modelfile and llama.cpp.md; returns facts for the record. All of them or none."""
    if not NAME.fullmatch(name):
        raise PosttrainError(
            f"{model_dir}: the name {name!r}; letters, digits, '.', '_' and '-' are allowed in a file name. Rename it."
        )
    file = f"{name}-{kind.upper()}.gguf"
    with whole_directory(out) as folder:
        written = write_gguf(model_dir, folder / file, cast("Kind", kind), name)
        inside = read_inside(folder / file)
        check_matrices(inside, out / file)
        template, temperature = _template(model_dir, inside.bos), _temperature(model_dir)
        (folder / "Modelfile").write_text(_modelfile(file, template, temperature, inside), encoding="utf-8")
        (folder / "llama.cpp.md").write_text(_commands(file, name, temperature, inside.context), encoding="utf-8")
    return {
        "file": file,
        "architecture": inside.architecture,
        "quantised": len(written.cast),
        "kept_in_f16": list(written.half),
        "stops": list(inside.stops),
        "ollama_template": template is not None,
    }


def read_inside(file: Path) -> Inside:
    """Read a GGUF file's own description."""
    reader = gguf.GGUFReader(file)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    tokens, name = fields["tokenizer.ggml.tokens"], fields["general.architecture"]
    ends = [fields.get(f"tokenizer.ggml.{key}_token_id") for key in END_KEYS]
    adds_bos = fields.get("tokenizer.ggml.add_bos_token", False)
    matrices = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 2}
    heads = 1 + ("output.weight" in matrices)
    return Inside(
        architecture=name,
        context=int(fields[f"{name}.context_length"]),
        stops=tuple(tokens[end] for end in ends if end is not None),
        bos=tokens[fields["tokenizer.ggml.bos_token_id"]] if adds_bos else "",
        matrices=matrices,
        expected=heads + MATRICES_A_BLOCK * int(fields[f"{name}.block_count"]),
    )


def check_matrices(inside: Inside, file: Path) -> None:
    """Refuse a file in which a matrix is missing or was passed over and kept in fp32."""
    kinds = {kind.name for kind in CASTS.values()} - {"F32"}
    stored = sum(kind in kinds for kind in inside.matrices.values())
    if stored != inside.expected:
        raise PosttrainError(
            f"{file}: {stored} matrices in {' or '.join(sorted(kinds))}; {inside.expected} are expected of this shape. "
            "Choose another export format, and report it."
        )


def _template(model_dir: Path, bos: str) -> str | None:
    tokenizer = load_tokenizer(model_dir)
    if not isinstance(tokenizer.chat_template, str):
        return None
    return go_template(
        lambda messages, asking: str(
            tokenizer.apply_chat_template(messages, add_generation_prompt=asking, tokenize=False)
        ),
        bos,
    )


def _temperature(model_dir: Path) -> float:
    """What the model's own settings say; 1 is sampling from the model as it is."""
    settings = model_dir / "generation_config.json"
    said = json.loads(settings.read_text(encoding="utf-8")).get("temperature") if settings.is_file() else None
    return 1.0 if said is None else float(said)


def _modelfile(file: str, template: str | None, temperature: float, inside: Inside) -> str:
    """Ollama's recipe for the file; without a TEMPLATE it goes by the template inside the file."""
    numbers = {"temperature": f"{temperature:g}", **PLAIN, "num_ctx": str(inside.context)}
    lines = [f"FROM ./{file}"]
    lines += [f'TEMPLATE """{template}"""'] if template is not None else []
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in inside.stops]
    lines += [f"PARAMETER {key} {value}" for key, value in numbers.items()]
    return "\n".join(lines) + "\n"


def _commands(file: str, name: str, temperature: float, context: int) -> str:
    """How to run the file, as text for people."""
    settings = f"--ctx-size {context} --temp {temperature:g} --top-k 0 --top-p 1 --min-p 0"
    return f"""# {file}

The tokenizer, the chat template and the stop tokens are inside the file.

A chat in the terminal, and an OpenAI-compatible server on port 8080, with [llama.cpp](https://github.com/ggml-org/llama.cpp):

    llama-cli --model {file} --conversation {settings}
    llama-server --model {file} --port 8080 {settings}

With [Ollama](https://ollama.com), from this directory:

    ollama create {name.lower()} --file Modelfile
    ollama run {name.lower()}

In transformers (weights are turned back into floats; needs the package `gguf`):

    AutoModelForCausalLM.from_pretrained(".", gguf_file="{file}")
"""
