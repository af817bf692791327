"""An ONNX export computes what the model computes, within 8 bits, and its cache is worth a whole prefill."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from fresh import ONNX, fresh_logits, machine_paths
from test_lm_gguf import LLAMA3, SHAPE, random_model
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from posttrain.errors import PosttrainError
from posttrain.exporting import onnx_file, onnx_int8
from posttrain.exporting.onnx_file import EXAMPLE, check_architecture, check_quantised, write
from posttrain.exporting.onnx_int8 import BLOCK, DATA, ZERO, Quantised, quantise, save, strip, to_blocks
from posttrain.exporting.onnx_runtime import OnnxRuntime
from posttrain.exporting.template import FileTemplate
from posttrain.lm.models import load_model, load_tokenizer, save_model

IDS = list(range(4, 40))
CLOSE = 0.05  # largest difference of a logit to fp32, as a share of the largest logit
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


def far(found: Any, exact: Any) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


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


# What follows traces real models, some seconds each.

MODELS: dict[str, PretrainedConfig] = {
    "llama, odd widths, own head": LlamaConfig(
        **{**SHAPE, "hidden_size": 44, "intermediate_size": 37, "head_dim": 10}, tie_word_embeddings=False
    ),
    "llama 3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 64}),
    "qwen2": Qwen2Config(**{**SHAPE, "head_dim": 8}, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=False),
}


def exact_logits(model_dir: Path, ids: list[int]) -> Any:
    with torch.inference_mode():
        return load_model(model_dir).eval()(torch.tensor([ids])).logits[0].numpy()


def step_by_step(runtime: OnnxRuntime, ids: list[int], start: int) -> Any:
    """Logits from position `start - 1` on: a prefill of `start` tokens, then one token after the other."""
    logits, past = runtime.prefill(ids[:start])
    found = [logits[-1]]
    for position in range(start, len(ids)):
        logits, past = runtime.decode(ids[position], position, past)
        found.append(logits)
    return np.stack(found)


@pytest.fixture(scope="module")
def written(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("onnx") / "out"
    return out, write(tiny_chat_model, out, "tiny")


@pytest.mark.slow
def test_a_fresh_process_is_close_to_fp32(
    written: tuple[Path, dict[str, Any]], tiny_chat_model: Path, tmp_path: Path
) -> None:
    out, facts = written
    found = fresh_logits(ONNX, out, IDS, tmp_path).numpy()
    with OnnxRuntime(out, threads=1) as runtime:
        assert np.array_equal(found, runtime.prefill(IDS)[0])
    assert 0 < far(found, exact_logits(tiny_chat_model, IDS)) < CLOSE
    assert facts["unquantised"] == [] and facts["tied"] and set(facts["quantised"]) == {"prefill", "decode"}
    assert machine_paths(out, tiny_chat_model, out.parent) == []


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 2, 20])
def test_the_cache_is_worth_a_whole_prefill(start: int, written: tuple[Path, dict[str, Any]]) -> None:
    with OnnxRuntime(written[0], threads=1) as runtime:
        whole = runtime.prefill(IDS)[0][start - 1 :]
        assert far(step_by_step(runtime, IDS, start), whole) < 1e-4
        broken = [*IDS[: start - 1], 50, *IDS[start:]]  # another token in the past
        assert far(step_by_step(runtime, broken, start), whole) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_of_each_kind_are_close_to_fp32(name: str, tiny_chat_model: Path, tmp_path: Path) -> None:
    model_dir = random_model(MODELS[name], tiny_chat_model, tmp_path / "model")
    write(model_dir, tmp_path / "out", "model")
    exact = exact_logits(model_dir, IDS)
    with OnnxRuntime(tmp_path / "out", threads=1) as runtime:
        assert 0 < far(runtime.prefill(IDS)[0], exact) < CLOSE
        assert far(step_by_step(runtime, IDS, 3), exact[2:]) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a zeroed block", "swapped matrices"])
def test_a_damaged_model_is_not_close(damage: str, tiny_chat_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_chat_model)
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    with torch.no_grad():
        if damage == "a zeroed block":
            first.v_proj.weight.zero_()
        else:
            first.v_proj, second.v_proj = second.v_proj, first.v_proj
    save_model(model, load_tokenizer(tiny_chat_model), tmp_path / "model")
    write(tmp_path / "model", tmp_path / "out", "broken")
    with OnnxRuntime(tmp_path / "out", threads=1) as runtime:
        assert far(runtime.prefill(IDS)[0], exact_logits(tiny_chat_model, IDS)) > CLOSE


@pytest.mark.slow
def test_the_runtime_scores_and_completes(written: tuple[Path, dict[str, Any]], tiny_chat_model: Path) -> None:
    out, _ = written
    exact = torch.tensor(exact_logits(tiny_chat_model, IDS)).double().log_softmax(-1)
    with OnnxRuntime(out, threads=1) as runtime:
        scored = runtime.score(IDS[:20], IDS[20:], 3)
        own = [float(exact[at - 1, IDS[at]]) for at in range(20, len(IDS))]
        assert np.allclose([each.logprob for each in scored], own, atol=0.05)
        assert [len(each.top) for each in scored] == [3] * 16
        assert all(each.top[0][1] >= each.top[1][1] for each in scored)
        alone = runtime.complete([IDS], 30, 1.0, [5])
        beside = runtime.complete([IDS[:3], IDS], 30, 1.0, [9, 5])
        assert alone[0].ids == beside[1].ids and runtime.complete([IDS], 30, 1.0, [6])[0].ids != alone[0].ids
        greedy = runtime.complete([IDS], 5, 0.0, [0])[0].ids
        assert greedy[0] == int(runtime.prefill(IDS)[0][-1].argmax())
        assert runtime.complete([IDS], 1000, 0.0, [0])[0].stopped or runtime._context == 512


@pytest.mark.slow
def test_the_example_answers_as_the_runtime_does(written: tuple[Path, dict[str, Any]]) -> None:
    out, _ = written
    run = subprocess.run(
        [sys.executable, "generate.py", "Tell me a story."], cwd=out, capture_output=True, text=True, check=True
    )
    with OnnxRuntime(out, threads=1) as runtime:
        ids = runtime.render([{"role": "user", "content": "Tell me a story."}])
        answer = runtime.complete([ids], 200, 0.0, [0])[0].ids
        assert run.stdout == runtime._tokenizer.decode(answer, skip_special_tokens=False) + "\n"
    assert json.loads((out / "prompt.json").read_text(encoding="utf-8"))["after"] == "<|end|><|assistant|>"


@pytest.mark.slow
def test_a_real_model_of_another_maker_works(stories260k: Path, tmp_path: Path) -> None:
    write(stories260k, tmp_path / "out", "stories260k")
    ids = load_tokenizer(stories260k).encode("Once upon a time, there was a little girl")
    exact = exact_logits(stories260k, ids)
    with OnnxRuntime(tmp_path / "out", threads=1) as runtime:
        found = runtime.prefill(ids)[0]
        assert runtime.encode("Once upon a time")[-3:] == ids[1:5][-3:]
    assert far(found, exact) < CLOSE and (found.argmax(-1) == exact.argmax(-1)).mean() > 0.9


@pytest.mark.slow
def test_nothing_is_left_of_a_failed_export(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space left on the device")

    monkeypatch.setattr(onnx_file, "write_companions", full)
    with pytest.raises(OSError, match="no space left"):
        write(tiny_chat_model, tmp_path / "out", "tiny")
    assert list(tmp_path.iterdir()) == []
