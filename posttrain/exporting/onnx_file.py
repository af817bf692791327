"""Two ONNX graphs with shared 8-bit weights: `prefill.onnx` reads a prompt, `decode.onnx` one token and the cache.

`transformers.exporters` traces both and fuses them into ONNX Runtime's operators. Beside them stand tokenizer, chat
template and generation settings, and `generate.py`, which needs onnxruntime, numpy and tokenizers only.
"""

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.exporting.companions import is_tied, load_merged, sizes, whole_directory, write_companions
from posttrain.exporting.template import FileTemplate

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3")  # others change with the length of the text, which a trace cannot
EXAMPLE = Path(__file__).with_name("onnx_example.py")
STAND_IN = "\ue000"


def write(model_dir: Path, out: Path, name: str) -> dict[str, Any]:
    """Export, quantise, save. Returns facts: sizes, int8 tensors a graph, matrices that stayed fp32 (none)."""
    from posttrain.exporting.onnx_int8 import quantise, save, strip

    model, tokenizer = load_merged(model_dir)
    check_architecture(model.config, str(model_dir))
    graphs = export(model)
    facts = {}
    for part, graph in graphs.items():
        found = quantise(graph)
        check_quantised(found, model, f"{model_dir}: {part} graph")
        strip(graph)
        facts[part] = found
    with whole_directory(out) as folder:
        save(graphs, folder)
        write_companions(model, tokenizer, folder)
        shutil.copyfile(EXAMPLE, folder / "generate.py")
        (folder / "prompt.json").write_text(json.dumps(_prompt(folder), ensure_ascii=False) + "\n", encoding="utf-8")
        return {
            "name": name,
            "files": sizes(folder),
            "quantised": {part: found.tensors for part, found in facts.items()},
            "unquantised": sorted({left for found in facts.values() for left in found.left}),
            "tied": is_tied(model),
        }


def check_architecture(config: Any, where: str) -> None:
    """Refuse what the traced graphs would compute in another way than transformers does."""
    settings = config.to_dict()
    rope = settings.get("rope_parameters") or {}
    layers = set(settings.get("layer_types") or ["full_attention"])
    for key, found, allowed in (
        ("model_type", settings["model_type"], ARCHITECTURES),
        ("rope_type", rope.get("rope_type", "default"), ROPES),
        ("layer_types", ", ".join(sorted(layers)), ("full_attention",)),
        ("quantization_config", settings.get("quantization_config"), (None,)),
    ):
        if found not in allowed:
            raise PosttrainError(
                f"{where}: {key} {found}; {', '.join(map(str, allowed))} allowed in onnx-int8. "
                "Choose another export format."
            )


def export(model: Any) -> dict[str, Any]:
    """The fp32 graphs `prefill` and `decode`, as `onnx_ir.Model`; one row, any number of tokens."""
    import torch
    from transformers import GenerationConfig

    length = _sample_length(model.config)
    sample = {
        "input_ids": torch.arange(length)[None] % model.config.vocab_size,
        "attention_mask": torch.ones(1, length, dtype=torch.long),
    }
    with _quietly():
        from transformers.exporters import OnnxConfig, OnnxExporter

        exported = OnnxExporter().export_for_generation(
            model,
            sample,
            OnnxConfig(dynamic=True, ort_fusions="cpu"),
            generation_config=GenerationConfig(do_sample=False, pad_token_id=0),
        )
    return {name: component.program for name, component in exported.components.items()}


def _sample_length(config: Any) -> int:
    """Tokens of the sample: a side of a tensor that is as long as another one would be taken for the same one."""
    taken = {value for value in config.to_dict().values() if isinstance(value, int)}
    return next(length for length in count(7) if taken.isdisjoint((length, length + 1)))


def check_quantised(found: Any, model: Any, where: str) -> None:
    """Quantisers pass over what they do not know, without a word: every matrix of the model must be int8."""
    import torch

    multiplied = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    looked_up = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    if (found.multiplied, found.looked_up) != (multiplied, looked_up) or found.left:
        raise PosttrainError(
            f"{where}: {found.multiplied} of {multiplied} numbers of linear layers and {found.looked_up} of "
            f"{looked_up} of embeddings became int8, left are {', '.join(found.left) or 'none'}; all are needed. "
            "Choose another export format."
        )


def _prompt(folder: Path) -> dict[str, str] | None:
    """What the chat template writes before and after a question, for programs that have no Jinja."""
    template = FileTemplate(folder)
    if not template.text:
        return None
    before, found, after = template.render([{"role": "user", "content": STAND_IN}]).partition(STAND_IN)
    return {"before": before, "after": after} if found else None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's pages of progress and of warnings about versions and packages that are not used."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
