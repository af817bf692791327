"""Real models as ONNX graphs, some seconds each: what they compute, their cache, the example and the runtime."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from fresh import ONNX, far, fresh_logits, machine_paths
from test_lm_gguf import LLAMA3, SHAPE, random_model
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from posttrain.exporting.companions import load_merged, write_companions
from posttrain.exporting.onnx_file import check_quantised, export, write
from posttrain.exporting.onnx_int8 import quantise, save
from posttrain.exporting.onnx_runtime import OnnxRuntime
from posttrain.lm.models import load_model, load_tokenizer, save_model

pytestmark = pytest.mark.slow
IDS = list(range(4, 40))
CLOSE = 0.05  # length of the difference to the fp32 logits, as a share of theirs

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


@pytest.mark.parametrize("start", [1, 2, 20])
def test_the_cache_is_worth_a_whole_prefill(start: int, written: tuple[Path, dict[str, Any]]) -> None:
    with OnnxRuntime(written[0], threads=1) as runtime:
        whole = runtime.prefill(IDS)[0][start - 1 :]
        assert far(step_by_step(runtime, IDS, start), whole) < 1e-4
        broken = [*IDS[: start - 1], 50, *IDS[start:]]  # another token in the past
        assert far(step_by_step(runtime, broken, start), whole) > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_graphs_of_each_kind_are_the_model(name: str, tiny_chat_model: Path, tmp_path: Path) -> None:
    """Large random weights round badly, so 8 bits have more room here; the graphs before that have none."""
    model_dir = random_model(MODELS[name], tiny_chat_model, tmp_path / "model")
    model, tokenizer = load_merged(model_dir)
    graphs, exact = export(model), exact_logits(model_dir, IDS)
    for kind, limit in (("fp32", 1e-4), ("int8", 3 * CLOSE)):
        (tmp_path / kind).mkdir()
        copies = {part: ir.from_proto(ir.to_proto(graph)) for part, graph in graphs.items()}
        if kind == "int8":
            for part, graph in copies.items():
                check_quantised(quantise(graph), model, part)
        save(copies, tmp_path / kind)
        write_companions(model, tokenizer, tmp_path / kind)
        with OnnxRuntime(tmp_path / kind, threads=1) as runtime:
            assert far(runtime.prefill(IDS)[0], exact) < limit
            assert far(step_by_step(runtime, IDS, 3), exact[2:]) < limit


@pytest.mark.parametrize("damage", ["a zeroed block", "swapped matrices", "an untied head"])
def test_another_model_is_not_close(
    damage: str, written: tuple[Path, dict[str, Any]], tiny_chat_model: Path, tmp_path: Path
) -> None:
    model = load_model(tiny_chat_model)
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    with torch.no_grad():
        if damage == "a zeroed block":
            first.v_proj.weight.zero_()
        elif damage == "swapped matrices":
            first.v_proj, second.v_proj = second.v_proj, first.v_proj
        else:
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
    save_model(model, load_tokenizer(tiny_chat_model), tmp_path / "model")
    with OnnxRuntime(written[0], threads=1) as runtime:
        assert far(runtime.prefill(IDS)[0], exact_logits(tmp_path / "model", IDS)) > CLOSE


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
        assert runtime.complete([IDS], 1000, 0.0, [0])[0].stopped or runtime.context == 512


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


def test_a_real_model_of_another_maker_works(stories260k: Path, tmp_path: Path) -> None:
    write(stories260k, tmp_path / "out", "stories260k")
    ids = load_tokenizer(stories260k).encode("Once upon a time, there was a little girl")
    exact = exact_logits(stories260k, ids)
    with OnnxRuntime(tmp_path / "out", threads=1) as runtime:
        found = runtime.prefill(ids)[0]
        assert runtime.encode("Once upon a time")[-3:] == ids[1:5][-3:]
    assert far(found, exact) < CLOSE and (found.argmax(-1) == exact.argmax(-1)).mean() > 0.9
