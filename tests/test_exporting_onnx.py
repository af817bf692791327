"""8-bit weights in a graph compute what the fp32 weights compute; what would not is refused, and no path stays."""

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from fresh import far
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from posttrain.errors import PosttrainError
from posttrain.exporting import onnx_file, onnx_int8
from posttrain.exporting.onnx_file import EXAMPLE, check_architecture, check_quantised, write
from posttrain.exporting.onnx_int8 import BLOCK, DATA, ZERO, Quantised, quantise, save, strip, to_blocks
from posttrain.exporting.onnx_runtime import OnnxRuntime
from posttrain.exporting.template import FileTemplate
from posttrain.lm.models import load_model, load_tokenizer

IDS = list(range(4, 40))
CLOSE = 0.05  # length of the difference to the fp32 logits, as a share of theirs
ROWS, WIDTH = 30, 40  # of a table; 40 is no multiple of 16


def graph(table: Any, weight: Any) -> ir.Model:
    """Rows of `table`, times `weight` [in, out], looked for in the table again: a model with a tied head."""
    values = {name: ir.tensor(array, name=name) for name, array in (("table", table), ("weight", weight))}
    held = {
        name: ir.Value(name=name, shape=ir.Shape(each.numpy().shape), type=ir.TensorType(each.dtype), const_value=each)
        for name, each in values.items()
    }
    ids = ir.Value(name="ids", shape=ir.Shape([1, "tokens"]), type=ir.TensorType(ir.DataType.INT64))
    rows = ir.node("Gather", [held["table"], ids], doc_string="/home/somebody/model.py")
    product = ir.node("MatMul", [rows.outputs[0], held["weight"]], metadata_props={"trace": "/home/somebody/model.py"})
    turned = ir.node("Transpose", [held["table"]], {"perm": [1, 0]})
    head = ir.node("MatMul", [product.outputs[0], turned.outputs[0]])
    out = head.outputs[0]
    out.name, out.type, out.shape = "logits", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, "tokens", len(table)])
    made = ir.Graph(
        [ids], [out], nodes=[rows, product, turned, head], initializers=list(held.values()), opset_imports={"": 20}
    )
    return ir.Model(made, ir_version=10)


def matrices(seed: int = 1) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=shape).astype(np.float32) for shape in ((ROWS, WIDTH), (WIDTH, WIDTH)))


def computed(model: ir.Model, folder: Path) -> Any:
    save({"model": model}, folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(None, {"ids": np.arange(ROWS)[None]})[0][0]


def test_every_number_is_within_half_a_step() -> None:
    weight, _ = matrices()
    blocks = to_blocks(weight)
    back = ((blocks.values.astype(np.float32) - ZERO) * blocks.scales[:, :, None]).reshape(ROWS, -1)[:, :WIDTH]
    steps = np.repeat(blocks.scales, BLOCK, axis=1)[:, :WIDTH]
    error = np.abs(back - weight)
    assert (error <= 0.5001 * steps).all() and error.max() > 0.4 * steps.min()
    assert (blocks.values[:, -1, WIDTH % BLOCK :] == ZERO).all()
    assert not to_blocks(np.zeros((2, 3), np.float32)).scales.any()  # and no division by zero


def test_a_quantised_graph_computes_the_same_within_8_bits(tmp_path: Path) -> None:
    table, weight = matrices()
    exact = table @ weight @ table.T
    model = graph(table, weight)
    assert quantise(model) == Quantised(WIDTH * WIDTH + ROWS * WIDTH, ROWS * WIDTH, 2, ())
    assert 0 < far(computed(model, tmp_path), exact) < CLOSE


@pytest.mark.parametrize("damage", ["zeroed", "swapped", "shifted"])
def test_a_damaged_matrix_is_not_close(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, weight = matrices()
    exact = table @ weight @ table.T
    if damage == "shifted":  # a wrong zero point
        monkeypatch.setattr(onnx_int8, "ZERO", ZERO - 8)
    model = graph(table, {"zeroed": 0 * weight, "swapped": weight.T.copy(), "shifted": weight}[damage])
    quantise(model)
    assert far(computed(model, tmp_path), exact) > CLOSE


def test_a_tied_table_is_in_the_file_once(tmp_path: Path) -> None:
    table, weight = matrices()
    models = {"one": graph(table, weight), "two": graph(table, weight)}
    for model in models.values():
        quantise(model)
    save(models, tmp_path)
    columns = -(-WIDTH // BLOCK) * BLOCK
    assert (tmp_path / DATA).stat().st_size < (ROWS + WIDTH) * columns * (1 + 4 / BLOCK) + 300
    held = ir.load(tmp_path / "one.onnx").graph.initializers
    assert held["int8_0_table"].const_value.offset == held["int8_0"].const_value.offset
    assert held["int8_0"].const_value.offset != held["int8_1"].const_value.offset


def test_a_matrix_that_is_passed_over_is_noticed(tiny_chat_model: Path) -> None:
    table, weight = matrices()
    model = graph(table, weight)
    hidden = next(node for node in model.graph if node.op_type == "MatMul")
    between = ir.node("Identity", [hidden.inputs[1]])
    model.graph.insert_before(hidden, [between])
    hidden.replace_input_with(1, between.outputs[0])
    found = quantise(model)
    assert found.left == ("weight",) and found.multiplied == ROWS * WIDTH
    with pytest.raises(PosttrainError, match="of embeddings became int8, left are weight; all are needed"):
        check_quantised(found, load_model(tiny_chat_model), "model")


def test_no_path_stays_in_a_graph(tmp_path: Path) -> None:
    model = graph(*matrices())
    save({"model": model}, tmp_path)
    assert b"/home/somebody" in (tmp_path / "model.onnx").read_bytes()
    model = graph(*matrices())
    strip(model)
    save({"model": model}, tmp_path)
    assert b"/home/somebody" not in (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (GPT2Config(), "model_type gpt2; llama, qwen2, qwen3 allowed"),
        (Qwen2Config(use_sliding_window=True, max_window_layers=1), "sliding_attention; full_attention allowed"),
        (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "rope_type dynamic"),
        (LlamaConfig(quantization_config={"load_in_8bit": True}), "quantization_config"),
    ],
)
def test_another_architecture_is_refused_by_name(config: PretrainedConfig, found: str) -> None:
    with pytest.raises(PosttrainError, match=found):
        check_architecture(config, "model")


def test_the_template_says_what_transformers_says(tiny_chat_model: Path) -> None:
    tokenizer, template = load_tokenizer(tiny_chat_model), FileTemplate(tiny_chat_model)
    talk = [
        {"role": "user", "content": " a\n"},
        {"role": "assistant", "content": "b "},
        {"role": "user", "content": "c"},
    ]
    for messages in (talk[:1], talk):
        said = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert template.render(messages) == said and said.startswith("<|user|> a\n<|end|>")


def test_the_example_is_short_and_needs_three_packages() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or "" for node in nodes}
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "tokenizers"}


def test_a_directory_without_graphs_is_refused(tiny_chat_model: Path) -> None:
    with pytest.raises(PosttrainError, match=r"no prefill\.onnx; prefill\.onnx, decode\.onnx"):
        OnnxRuntime(tiny_chat_model, threads=1)


def test_nothing_is_left_of_a_failed_export(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space left on the device")

    monkeypatch.setattr(onnx_file, "export", lambda model: {})
    monkeypatch.setattr(onnx_file, "write_companions", full)
    with pytest.raises(OSError, match="no space left"):
        write(tiny_chat_model, tmp_path / "out", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_graph_is_refused_plainly(tiny_chat_model: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((tiny_chat_model / name).read_bytes())
    model = graph(*matrices())
    quantise(model)
    save({"prefill": model}, tmp_path)
    (tmp_path / "decode.onnx").write_bytes((tmp_path / "prefill.onnx").read_bytes()[:-200])
    with pytest.raises(PosttrainError, match=r"decode\.onnx: ONNX Runtime cannot load it"):
        OnnxRuntime(tmp_path, threads=1)
    (tmp_path / DATA).unlink()
    with pytest.raises(PosttrainError, match=r"prefill\.onnx: ONNX Runtime cannot load it"):
        OnnxRuntime(tmp_path, threads=1)
