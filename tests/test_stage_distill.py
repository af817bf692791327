"""distill as the chain calls it: which students it makes, what it measures, what a stop keeps."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import distill_stage
import pytest
from distill_stage import (
    QUICK,
    SMALL,
    Stop,
    conversation,
    distil,
    first_sentence,
    hashes,
    weights,
    write_data,
)
from stage_context import context, given, run

from posttrain.errors import PosttrainError

rows, pair, other_teacher = distill_stage.rows, distill_stage.pair, distill_stage.other_teacher  # fixtures


# Students


@pytest.mark.parametrize(
    ("student", "layers", "size"),
    [({}, 1, 16), ({"architecture": {**SMALL, "num_hidden_layers": 2}}, 2, 16), ({"layers": 2}, 2, 24)],
    ids=["a model", "an architecture", "layers"],
)
def test_a_student_of_each_kind_comes_nearer_to_its_teacher(
    student: dict[str, Any], layers: int, size: int, pair: tuple[Path, Path], rows: Path, tmp_path: Path
) -> None:
    from posttrain.lm.models import load_model, load_tokenizer

    teacher = hashes(pair[1])
    made = distil(tmp_path, pair, rows, alpha=0, num_train_epochs=3, **student)
    saved = load_model(tmp_path / "out")
    assert (saved.config.num_hidden_layers, saved.config.hidden_size) == (layers, size)
    tokenizer = load_tokenizer(tmp_path / "out")
    assert saved.get_input_embeddings().weight.shape[0] == len(tokenizer) == 300 and tokenizer.chat_template
    assert made["held_out_divergence"]["after"] < made["held_out_divergence"]["before"]
    assert made["loss"] < made["loss_curve"][0][1]
    assert not (tmp_path / "out" / "adapter_config.json").exists() and hashes(pair[1]) == teacher


def test_chosen_layers_are_the_teachers_own(pair: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    all_layers = distil(tmp_path / "all", pair, rows, layers=[0, 1, 2], trainer={"max_steps": 1})
    assert all_layers["held_out_divergence"]["before"] == pytest.approx(0, abs=1e-6)
    assert all_layers["held_out_nll"]["before"] == pytest.approx(all_layers["held_out_nll"]["teacher"])
    some = distil(tmp_path / "some", pair, rows, layers=[0, 2], trainer={"max_steps": 1})
    assert some["held_out_divergence"]["before"] > 1e-3
    with pytest.raises(PosttrainError, match="no layer 3"):
        distil(tmp_path / "none", pair, rows, layers=[0, 3])
    with pytest.raises(PosttrainError, match="4 of a teacher's 3 layers"):
        distil(tmp_path / "many", pair, rows, layers=4)


def test_a_new_student_has_exactly_the_tokenizers_rows(pair: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    from posttrain.lm.models import load_model, load_tokenizer, save_model

    padded = load_model(pair[1])
    padded.resize_token_embeddings(320)
    save_model(padded, load_tokenizer(pair[1]), tmp_path / "padded")
    distil(tmp_path, (pair[0], tmp_path / "padded"), rows, architecture=SMALL, trainer={"max_steps": 1})
    saved = load_model(tmp_path / "out")
    assert saved.config.vocab_size == 300 and saved.config.eos_token_id == load_tokenizer(pair[1]).eos_token_id


# Figures


def test_sequence_is_plain_sft_and_never_asks_the_teacher(pair: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    made = distil(tmp_path / "a", pair, rows, method="sequence")
    assert made["held_out_nll"]["after"] < made["held_out_nll"]["before"]
    inputs = {"model": given(pair[0]), "data": given(rows)}
    run("sft", context(tmp_path / "b", **inputs), model="m", data="d", full=True, **QUICK)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_the_record_counts_every_row_and_compares_with_the_teacher(
    pair: tuple[Path, Path], rows: Path, tmp_path: Path
) -> None:
    from math import log

    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.models import load_tokenizer
    from posttrain.rows import read_rows

    long = tmp_path / "long"
    write_data(
        long, [*read_rows(rows / "test.jsonl"), *read_rows(rows / "train.jsonl"), conversation(99, "Word " * 99)]
    )
    made = distil(tmp_path, pair, long, num_train_epochs=1)
    chat = ChatFormat(load_tokenizer(pair[0]), "student")
    rendered = [chat.row(row["id"], row["messages"]) for row in read_rows(rows / "train.jsonl")]
    assert (made["rows"], made["rows_dropped_too_long"], made["rows_cut"]) == (32, 1, 0)
    assert made["tokens"] == sum(len(row.input_ids) for row in rendered)
    assert made["supervised_tokens"] == sum(sum(row.supervised) for row in rendered)
    assert made["steps"] == len(made["loss_curve"]) == 4 and made["tokens_per_second"] > 0
    held = made["held_out_nll"]
    assert (
        held["teacher"] > 0
        and held["rows"] == 4
        and held["change"]["mean"] == pytest.approx(held["after"] - held["before"])
    )
    bits = made["held_out_bits_per_byte"]
    tests = [
        (chat.row(row["id"], row["messages"]), row["messages"][-1]["content"]) for row in read_rows(rows / "test.jsonl")
    ]
    ratio = sum(sum(row.supervised) for row, _ in tests) / sum(len(text.encode()) for _, text in tests)
    assert bits["after"] == pytest.approx(held["after"] * ratio / log(2), rel=0.05)  # rows are of like length
    assert made["summary"].startswith("logits from ") and "1 rows dropped" in made["summary"]
    json.dumps(made)


# Rows


def test_thinking_is_kept_or_stripped_and_an_answer_of_nothing_else_is_dropped(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    from posttrain.stages.distilling import _without_thinking

    def stripped(text: str, role: str = "assistant") -> str:
        return str(_without_thinking({"role": role, "content": text})["content"])

    assert stripped("<think>\na </b>\n</think>\n\nYes.") == "Yes."
    assert stripped(" <think>a</think>b <think>c</think>") == "b <think>c</think>"
    assert stripped("So <think>a</think>") == "So <think>a</think>" and stripped("<think>a") == ""
    assert stripped("<think>a</think>b", "user") == "<think>a</think>b"
    thought = [conversation(i, f"<think>{'Hm.' * 9}</think> {first_sentence(i)}") for i in range(20)]
    data = write_data(tmp_path / "data", [*thought, conversation(20, "<think>endless")])
    kept, without = (
        distil(tmp_path / think, pair, data, method="sequence", think=think, max_length=128)
        for think in ("keep", "strip")
    )
    assert (kept["rows"], kept["rows_dropped_unanswered"]) == (17, 0)
    assert (without["rows"], without["rows_dropped_unanswered"]) == (16, 1)
    assert without["supervised_tokens"] < kept["supervised_tokens"]
    nothing = write_data(tmp_path / "nothing", [conversation(i, "<think>endless") for i in range(8)])
    with pytest.raises(PosttrainError, match=r"4 rows of train\.jsonl, and no answer"):
        distil(tmp_path / "n", pair, nothing, method="sequence", think="strip")


# Methods


@pytest.mark.parametrize(
    ("settings", "layer_map", "projected"),
    [
        ({}, [[0, 0], [1, 3]], True),
        ({"layers": 2, "layer_map": [[0, 0], [1, 1]], "attention": True}, [[0, 0], [1, 1]], False),
    ],
    ids=["another size", "the teacher's size"],
)
def test_hidden_says_which_layers_are_matched(
    settings: dict[str, Any],
    layer_map: list[list[int]],
    projected: bool,
    pair: tuple[Path, Path],
    rows: Path,
    tmp_path: Path,
) -> None:
    from safetensors import safe_open

    how = {"method": "hidden", "alpha": 0, "intermediate_share": 0.25, "num_train_epochs": 3, **settings}
    made = distil(tmp_path, pair, rows, **how)
    assert made["intermediate"] == {"layer_map": layer_map, "projected": projected}
    assert made["held_out_divergence"]["after"] < made["held_out_divergence"]["before"]
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert all(name.startswith(("model.", "lm_head.")) for name in file.keys())  # noqa: SIM118
    assert "eager" not in (tmp_path / "out" / "config.json").read_text()
    with pytest.raises(PosttrainError, match="layer 9 follows layer 1"):
        distil(tmp_path / "no", pair, rows, **{**how, "layer_map": [[9, 1]]})


def test_a_teacher_of_another_tokenizer_teaches_where_both_have_read_the_same(
    pair: tuple[Path, Path], other_teacher: Path, rows: Path, tmp_path: Path
) -> None:
    how = {"method": "cross_tokenizer", "num_train_epochs": 3, "max_length": 128}
    made = distil(tmp_path / "a", (pair[0], other_teacher), rows, **how)
    assert 0.05 < made["aligned_share"] < 1 and made["held_out_divergence"] is None
    assert made["rows_dropped_too_long"] == 0
    assert made["loss"] < 0.95 * made["loss_curve"][0][1]
    assert made["held_out_nll"]["after"] < made["held_out_nll"]["before"]
    same = distil(tmp_path / "b", pair, rows, **{**how, "trainer": {"max_steps": 1}})
    assert same["aligned_share"] == 1
    long = write_data(
        tmp_path / "long", [conversation(i, first_sentence(i) + " ~" * 30 * (i == 16)) for i in range(30)]
    )
    cut = distil(tmp_path / "c", (pair[0], other_teacher), long, **{**how, "trainer": {"max_steps": 1}})
    assert cut["rows_dropped_too_long"] == 1  # for the teacher


def test_on_policy_trains_on_what_the_student_writes(pair: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    how = {"method": "on_policy", "divergence": "reverse_kl", "alpha": 0, "num_train_epochs": 3, "max_new_tokens": 20}
    made = distil(tmp_path / "half", pair, rows, **how)
    assert 0 < made["sampled_tokens"] < made["supervised_tokens"]
    assert made["held_out_divergence"]["after"] < made["held_out_divergence"]["before"]
    whole = distil(tmp_path / "whole", pair, rows, **{**how, "lmbda": 1, "trainer": {"max_steps": 1}})
    assert 0 < whole["sampled_tokens"] == whole["supervised_tokens"] <= 8 * 20


# Interruption


@pytest.mark.parametrize("method", [pytest.param("sequence", marks=pytest.mark.slow), "logits", "cross_tokenizer"])
def test_a_stopped_stage_continues_to_the_same_bytes(
    method: str, pair: tuple[Path, Path], rows: Path, tmp_path: Path
) -> None:
    whole = distil(tmp_path / "whole", pair, rows, method=method)
    with pytest.raises(KeyboardInterrupt):
        distil(tmp_path / "c", pair, rows, stop=Stop("step", 3), method=method)
    assert list((tmp_path / "c" / "out" / ".work" / "checkpoints").glob("checkpoint-2"))
    resumed = distil(tmp_path / "c", pair, rows, method=method)
    assert weights(tmp_path / "c") == weights(tmp_path / "whole")
    timed = {"tokens_per_second"}
    assert {k: v for k, v in resumed.items() if k not in timed} == {k: v for k, v in whole.items() if k not in timed}


def test_a_teacher_stopped_while_it_is_cached_goes_on_with_the_next_block(
    pair: tuple[Path, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.lm.distillation import target_store

    monkeypatch.setattr(target_store, "TargetStore", partial(target_store.TargetStore, rows_per_block=8))
    whole = distil(tmp_path / "whole", pair, rows, method="cached")
    for stop in (Stop("rows read by the teacher", 16), Stop("step", 3)):
        with pytest.raises(KeyboardInterrupt):
            distil(tmp_path / "c", pair, rows, stop=stop, method="cached")
    other = context(tmp_path / "c", teacher=replace(given(pair[1]), identity="1" * 64), data=given(rows))
    with pytest.raises(PosttrainError, match=r"made for teacher 0{64} in fp32; teacher 1{64} in fp32 is needed"):
        run("distill", other, layers=1, teacher="t", data="d", method="cached", **QUICK)
    resumed = distil(tmp_path / "c", pair, rows, method="cached")
    assert weights(tmp_path / "c") == weights(tmp_path / "whole")
    cache = whole["cache"]
    assert (cache["blocks"], cache["made"], resumed["cache"]["made"]) == (4, 4, 0)
    assert cache["supervised_tokens"] == whole["supervised_tokens"] and cache["tokens_verified"] > 0
    assert 12 < cache["bytes_per_token"] < 200 and cache["tokens_per_second"] > 0
