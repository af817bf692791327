"""The samples stage: completions, and what held-out answers cost a model under their own prompts and others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stage_context import PROMPTS, context, given, run

from posttrain.engines.transformers_engine import Prompt, Sampling, sample
from posttrain.exporting.formats import write_format
from posttrain.lm.chat import ChatFormat
from posttrain.lm.models import load_model, load_tokenizer
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.held_out import reference_losses


def sampled(folder: Path, model: Path, prompts: Path = PROMPTS, **more: Any) -> tuple[dict[str, Any], Path]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"limit": 6, "samples": 1, "max_new_tokens": 4, **more}
    return run("samples", context(folder, model=given(model)), model="m", prompts=prompts, **settings), folder / "out"


def short(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "p.jsonl", rows)
    return folder / "p.jsonl"


TEXTS = ["A cat ran.", "The dog sat down.", "One day it rained, and all was wet."]
ROWS = [{"id": f"p{at}", "prompt": f"Tell of {at} things.", "reference": text} for at, text in enumerate(TEXTS)]


def by_hand(model: Path, prompt: str, text: str) -> float:
    """Nats of the answer and its stop token, token by token."""
    import torch

    chat = ChatFormat(load_tokenizer(model), "m")
    row = chat.row("x", [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}])
    with torch.inference_mode():
        logits = load_model(model)(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
    told = [at for at, learnt in enumerate(row.supervised) if learnt]
    return float(-sum(logits[at - 1, row.input_ids[at]] for at in told))


def test_held_out_answers_cost_what_the_model_says(tiny_chat_model: Path, tmp_path: Path) -> None:
    made, out = sampled(tmp_path, tiny_chat_model, short(tmp_path, ROWS))
    rows = read_rows(out / "held_out.jsonl")
    assert [row["id"] for row in rows] == ["p0", "p1", "p2"]
    for at, row in enumerate(rows):
        assert row["nats"] == pytest.approx(by_hand(tiny_chat_model, ROWS[at]["prompt"], TEXTS[at]), rel=1e-4)
        other = ROWS[(at + 1) % 3]["prompt"]
        assert row["nats_other"] == pytest.approx(by_hand(tiny_chat_model, other, TEXTS[at]), rel=1e-4)
    assert made["held_out"]["answers"] == 3
    mean = sum(row["nats"] / row["tokens"] for row in rows) / 3
    assert made["held_out"]["nats_a_token"] == pytest.approx(mean, abs=1e-4)
    assert read_rows(out / "control.jsonl")[0].keys() == {"text"}
    assert {"<|user|>", "<|end|>"} <= {row["text"] for row in read_rows(out / "control.jsonl")}


def test_the_key_names_the_tokens_and_nothing_else(tiny_chat_model: Path, tmp_path: Path) -> None:
    _, one = sampled(tmp_path / "a", tiny_chat_model, short(tmp_path / "a", ROWS))
    moved = [{**row, "id": f"q{at}"} for at, row in enumerate(ROWS)]
    _, two = sampled(tmp_path / "b", tiny_chat_model, short(tmp_path / "b", moved), temperature=0.9)
    changed = [{**ROWS[0], "reference": "A cat sat."}, *ROWS[1:]]
    _, three = sampled(tmp_path / "c", tiny_chat_model, short(tmp_path / "c", changed))
    keys = [[row["key"] for row in read_rows(out / "held_out.jsonl")] for out in (one, two, three)]
    assert keys[0] == keys[1] and len(set(keys[0])) == 3
    assert keys[2][0] != keys[0][0] and keys[2][1:] == keys[0][1:]


def test_prompts_without_references_leave_no_figures(tiny_chat_model: Path, tmp_path: Path) -> None:
    bare = short(tmp_path, [{"id": "a", "prompt": "A story."}, {"id": "b", "prompt": "Two.", "reference": " "}])
    made, out = sampled(tmp_path, tiny_chat_model, bare)
    assert made["held_out"] == {"answers": 0, "nats_a_token": None, "own_prompt_worth": None}
    assert not (out / "held_out.jsonl").exists()


def test_equal_requests_and_answers_beyond_the_context_are_left_out(tiny_chat_model: Path, tmp_path: Path) -> None:
    same = [{**row, "prompt": "Tell a story."} for row in ROWS]
    long = {"id": "long", "prompt": "Tell it all.", "reference": "word " * 600}
    made, out = sampled(tmp_path, tiny_chat_model, short(tmp_path, [*same, long]))
    rows = {row["id"]: row for row in read_rows(out / "held_out.jsonl")}
    assert [*rows] == ["p0", "p1", "p2"] and rows["p0"]["nats_other"] is None
    assert rows["p2"]["nats_other"] is not None and made["held_out"]["own_prompt_worth"] is not None


def test_progress_is_told_for_both_passes(tiny_chat_model: Path, tmp_path: Path) -> None:
    chat = ChatFormat(load_tokenizer(tiny_chat_model), "m")
    ctx = context(tmp_path, stop_after=6)
    with pytest.raises(KeyboardInterrupt):
        reference_losses(load_model(tiny_chat_model), chat, ROWS, ctx.progress)
    assert len(reference_losses(load_model(tiny_chat_model), chat, ROWS, context(tmp_path, 7).progress)) == 3


def test_a_prompt_of_rare_characters_fits_the_room_of_an_exported_file(tiny_chat_model: Path, tmp_path: Path) -> None:
    write_format("gguf-f16", tiny_chat_model, tmp_path / "files/gguf-f16", "tiny")
    rare = "\U0001f600" * 100
    assert len(load_tokenizer(tiny_chat_model).encode(rare)) == 4 * len(rare)  # none of it was in its training text
    prompts = short(tmp_path, [{"id": "p0", "prompt": rare}])
    made, out = sampled(tmp_path / "a", tmp_path / "files", prompts, format="gguf-f16")
    assert made["completions"] == 1 and read_rows(out / "completions.jsonl")[0]["prompt"] == rare


def writing(tokens: list[int]) -> Any:
    """A model that writes these tokens, whatever it is asked."""
    import torch
    from transformers import LlamaConfig

    class Writer:
        config, device = LlamaConfig(num_hidden_layers=1, max_position_embeddings=256), "cpu"
        left = iter(tokens)

        def eval(self) -> None:
            pass

        def __call__(self, **inputs: Any) -> Any:
            logits = torch.full((1, 1, 10_000), float("-inf"))
            logits[..., next(self.left)] = 0.0
            return SimpleNamespace(logits=logits)

    return Writer()


def test_a_control_token_inside_an_answer_stands_in_the_text(tiny_chat_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_chat_model)
    end, user = tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>"])
    words = tokenizer("A cat", add_special_tokens=False).input_ids

    def text(tokens: list[int], name: str) -> str:
        settings = Sampling(max_new_tokens=len(tokens), temperature=1.0, seed=1, block_size=1)
        prompts = [Prompt("p", [5, 6])]
        return sample(
            writing(tokens), tokenizer, frozenset({end}), prompts, settings, tmp_path / name, lambda *_: None
        )["p"].text

    assert text([*words, user, *words, end], "leaks") == "A cat<|user|>A cat"
    assert text([*words, end, user], "ends") == "A cat"  # negative control
