"""Preference rows as tokens: the template's own ids, nothing cut, equal pairs dropped, everything counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.dpo_trainer import DataCollatorForPreference

from posttrain.errors import PosttrainError
from posttrain.lm.chat import ChatFormat
from posttrain.lm.models import load_tokenizer
from posttrain.lm.preference.pairs import TokenPair, token_answers, token_pairs, unpaired


@pytest.fixture
def chat(tiny_chat_model: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(tiny_chat_model), "tiny")


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def row(name: str, chosen: str, rejected: str, prompt: str = "Tell me a story.") -> dict[str, Any]:
    return {
        "id": name,
        "prompt": messages("user", prompt),
        "chosen": messages("assistant", chosen),
        "rejected": messages("assistant", rejected),
    }


TWO_TURNS = {
    **row("b", "A cat sat.", "A dog <|end|> ran."),
    "prompt": [
        *messages("user", "Hello."),
        *messages("assistant", "Hello, friend."),
        *messages("user", "A story with <|assistant|> in it, please."),
    ],
}
ROWS = [row("a", "The cat sat down.", "The dog ran off."), TWO_TURNS]


def is_the_templates(pair: TokenPair, source: dict[str, Any], chat: ChatFormat) -> bool:
    return all(
        pair.prompt + answer == chat.render([*source["prompt"], *source[side]]).ids and answer[-1] in chat.stop_ids
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    )


def test_prompt_and_answer_are_the_ids_of_the_template_and_split_where_the_model_is_asked(chat: ChatFormat) -> None:
    pairs, counts = token_pairs(ROWS, chat, 200)
    assert counts == {"too long": 0, "equal": 0, "prompt cut": 0}
    for pair, source in zip(pairs, ROWS, strict=True):
        assert is_the_templates(pair, source, chat)
        assert pair.prompt == chat.render(source["prompt"], add_generation_prompt=True).ids
        without_stop = pair._replace(rejected=pair.rejected[:-1])
        asked_otherwise = pair._replace(prompt=chat.render(source["prompt"]).ids)
        assert not is_the_templates(without_stop, source, chat)
        assert not is_the_templates(asked_otherwise, source, chat)


def test_what_the_template_writes_after_the_stop_token_is_no_part_of_an_answer(chat: ChatFormat) -> None:
    marker = "{% endgeneration %}"
    assert marker in chat.template
    chat.tokenizer.chat_template = chat.template.replace(marker, marker + "{{ '\\n' }}")
    wordy = ChatFormat(chat.tokenizer, "wordy")
    ((pair,), _) = token_pairs(ROWS[:1], wordy, 200)
    assert pair.chosen[-1] in wordy.stop_ids
    assert len(wordy.render([*ROWS[0]["prompt"], *ROWS[0]["chosen"]]).ids) > len(pair.prompt + pair.chosen)


def test_a_template_that_asks_otherwise_than_it_trains_is_refused(chat: ChatFormat) -> None:
    asks = "<|assistant|>{%- endif -%}"
    assert chat.template.endswith(asks)
    chat.tokenizer.chat_template = chat.template.removesuffix(asks) + "<|assistant|>Well,{%- endif -%}"
    with pytest.raises(PosttrainError, match="row a: before an answer the prompt has other tokens"):
        token_pairs(ROWS, ChatFormat(chat.tokenizer, "odd"), 200)


def test_pairs_too_long_or_equal_are_dropped_whole_and_counted(chat: ChatFormat) -> None:
    rows = [*ROWS, row("long", "The cat sat. " * 9, "No."), row("same", "The end.", "The end.")]
    ((first, _, long), counts) = token_pairs(rows, chat, 500)
    assert counts == {"too long": 0, "equal": 1, "prompt cut": 0}
    longest = len(long.prompt) + len(long.chosen)
    assert len(token_pairs(rows, chat, longest)[0]) == 3
    kept, counts = token_pairs(rows, chat, longest - 1)
    assert [pair.id for pair in kept] == ["a", "b"] and counts == {"too long": 1, "equal": 1, "prompt cut": 0}
    assert kept[0] == first


def test_a_prompt_is_cut_only_when_asked_from_the_left_and_alike_for_both_sides(chat: ChatFormat) -> None:
    rows = [row("a", "The cat sat down.", "No.", prompt="Once there was a very long question. " * 5)]
    ((whole,), _) = token_pairs(rows, chat, 500)
    limit = len(whole.prompt) + len(whole.chosen) - 7
    assert token_pairs(rows, chat, limit) == ([], {"too long": 1, "equal": 0, "prompt cut": 0})
    ((cut,), counts) = token_pairs(rows, chat, limit, cut_prompt=True)
    assert counts == {"too long": 0, "equal": 0, "prompt cut": 1}
    assert cut == whole._replace(prompt=whole.prompt[7:])
    assert token_pairs(rows, chat, len(whole.chosen), cut_prompt=True)[1]["too long"] == 1


def test_cutting_answers_as_trl_does_would_leave_equal_pairs() -> None:
    pair = TokenPair("a", [5, 6], [7, 8, 9, 2], [7, 8, 4, 2])
    batch = DataCollatorForPreference(pad_token_id=0, max_length=4)(
        [{"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}]
    )
    chosen, rejected = batch["input_ids"]
    assert chosen.tolist() == rejected.tolist()


def test_answers_with_a_verdict_are_rendered_alike_and_pairs_fall_apart_into_them(chat: ChatFormat) -> None:
    (pairs, _) = token_pairs(ROWS, chat, 200)
    rows = [
        {"id": f"{source['id']}.{side}", "prompt": source["prompt"], "completion": source[side], "label": label}
        for source in ROWS
        for side, label in (("chosen", True), ("rejected", False))
    ]
    answers, counts = token_answers(rows, chat, 200)
    assert answers == unpaired(pairs) and [answer.label for answer in answers] == [True, False] * 2
    assert counts == {"too long": 0, "prompt cut": 0}
    assert token_answers(rows, chat, 8)[1]["too long"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": messages("assistant", "Hello.")}, "row a: its prompt ends with the role 'assistant'; 'user'"),
        ({"prompt": "Hello."}, "row a: prompt is no list of messages"),
        ({"chosen": messages("user", "Hello.")}, "row a: chosen holds user; one message of 'assistant'"),
        ({"chosen": messages("assistant", " ")}, "row a: its chosen answer is empty"),
        ({"rejected": [{"role": "assistant"}]}, "row a: rejected is no list of messages"),
    ],
)
def test_a_row_of_another_shape_is_named(change: dict[str, Any], said: str, chat: ChatFormat) -> None:
    with pytest.raises(PosttrainError, match=said):
        token_pairs([{**ROWS[0], **change}], chat, 200)


def test_an_empty_answer_can_be_rejected_and_a_verdict_must_be_true_or_false(chat: ChatFormat) -> None:
    ((pair,), _) = token_pairs([row("a", "The end.", "")], chat, 200)
    assert len(pair.rejected) == 1
    made: Callable[[Any], Any] = lambda label: token_answers([{**ROWS[0], "label": label}], chat, 200)  # noqa: E731
    with pytest.raises(PosttrainError, match="row a: label is 1; true or false"):
        made(1)


def test_a_masked_start_is_the_longest_that_both_answers_share_and_only_moves_tokens(chat: ChatFormat) -> None:
    rows = [row("a", "The cat sat down.", "The cat ran off."), row("b", "A cat.", "Dogs!")]
    (plain, other), _ = token_pairs(rows, chat, 200)
    (masked, apart), counts = token_pairs(rows, chat, 200, mask_start=True)
    assert (masked.prompt + masked.chosen, masked.prompt + masked.rejected) == (
        plain.prompt + plain.chosen,
        plain.prompt + plain.rejected,
    )
    assert len(masked.prompt) > len(plain.prompt) and masked.chosen[0] != masked.rejected[0]
    assert apart == other and counts["equal"] == 0
