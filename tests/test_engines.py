"""Sampling: the same rows give the same bytes, and finished blocks are not sampled again."""

from pathlib import Path
from typing import Any

import pytest

from posttrain.engines.transformers_engine import Prompt, Sampling, block_seed, blocks_of, sample
from posttrain.errors import PosttrainError
from posttrain.lm.models import load_model, load_tokenizer

PROMPTS = [Prompt(f"p{i}", [2, *range(5, 6 + i % 4), 1]) for i in range(10)]
SETTINGS = Sampling(max_new_tokens=8, temperature=1.0, seed=7, block_size=4)


def run(path: Path, journal: Path, prompts: list[Prompt] = PROMPTS, settings: Sampling = SETTINGS) -> dict[str, Any]:
    model, tokenizer = load_model(path), load_tokenizer(path)
    return sample(model, tokenizer, frozenset({0}), prompts, settings, journal, lambda *_: None)


def test_the_same_rows_give_the_same_text_in_any_order(tiny_chat_model: Path, tmp_path: Path) -> None:
    first = run(tiny_chat_model, tmp_path / "a")
    assert first == run(tiny_chat_model, tmp_path / "b", PROMPTS[::-1])
    assert first != run(tiny_chat_model, tmp_path / "c", settings=SETTINGS._replace(seed=8))


def test_a_finished_block_is_read_back_and_not_sampled_again(tiny_chat_model: Path, tmp_path: Path) -> None:
    whole = run(tiny_chat_model, tmp_path / "j")
    blocks = sorted((tmp_path / "j").iterdir())
    blocks[1].unlink()
    blocks[0].write_text(blocks[0].read_text().replace('"tokens": ', '"tokens": 1'))
    again = run(tiny_chat_model, tmp_path / "j")
    kept = {prompt.id for prompt in blocks_of(PROMPTS, 4)[0]}
    assert {key for key in whole if whole[key] != again[key]} == kept


def test_left_padding_does_not_change_what_greedy_sampling_says(tiny_chat_model: Path, tmp_path: Path) -> None:
    greedy = SETTINGS._replace(temperature=0.0)
    together = run(tiny_chat_model, tmp_path / "t", settings=greedy)
    alone = run(tiny_chat_model, tmp_path / "s", settings=greedy._replace(block_size=1))
    assert {key: value.text for key, value in together.items()} == {key: v.text for key, v in alone.items()}


def test_a_stop_token_ends_the_text_and_counts(tiny_chat_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_chat_model), load_tokenizer(tiny_chat_model)
    every = frozenset(range(len(tokenizer)))
    found = sample(model, tokenizer, every, PROMPTS[:2], SETTINGS, tmp_path, lambda *_: None)
    assert all(item == ("", True, 1) for item in found.values())
    never = sample(model, tokenizer, frozenset({10**6}), PROMPTS[:2], SETTINGS, tmp_path / "n", lambda *_: None)
    assert all((item.stopped, item.tokens) == (False, 8) for item in never.values())


@pytest.mark.parametrize("change", [{"seed": 8}, {"ids": "other"}])
def test_a_blocks_seed_depends_on_the_seed_and_its_row_ids(change: dict[str, Any]) -> None:
    block = PROMPTS[:3]
    other = [prompt._replace(id=prompt.id + "x") for prompt in block] if "ids" in change else block
    assert block_seed(7, block) == block_seed(7, list(block))
    assert block_seed(7, block) != block_seed(change.get("seed", 7), other)


def test_sampling_stays_inside_the_models_context(tiny_chat_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_chat_model), load_tokenizer(tiny_chat_model)
    context = model.config.max_position_embeddings
    never = frozenset({10**6})
    nearly = [Prompt("p", [5] * (context - 3))]
    assert sample(model, tokenizer, never, nearly, SETTINGS, tmp_path / "a", lambda *_: None)["p"].tokens == 3
    with pytest.raises(PosttrainError, match=f"prompt p: {context} tokens"):
        sample(model, tokenizer, never, [Prompt("p", [5] * context)], SETTINGS, tmp_path / "b", lambda *_: None)


def test_a_block_is_made_by_one_thread_however_many_there_are_and_are_left(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from posttrain.engines import decoding

    seen, real, before = [], decoding.decode, torch.get_num_threads()

    def watched(*given: Any) -> Any:
        seen.append(torch.get_num_threads())
        return real(*given)

    monkeypatch.setattr(decoding, "decode", watched)
    try:
        torch.set_num_threads(3)
        whole = run(tiny_chat_model, tmp_path / "j")
        sorted((tmp_path / "j").iterdir())[1].unlink()
        assert run(tiny_chat_model, tmp_path / "j") == whole and seen == [1] * 4
        run(tiny_chat_model, tmp_path / "k", PROMPTS[:4])
        assert seen[4:] == [3] and torch.get_num_threads() == 3  # the control: a single block has them all
    finally:
        torch.set_num_threads(before)
