"""Published instruction data: every known form becomes messages, and what teaches nothing is named."""

import pytest

from data_gen.conversations import ConversationError, read_conversation
from data_gen.preferences import NO_ANSWER, NO_PROMPT, NOT_LAST, ROLES

ASKED, TOLD = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
FORMS = {
    "messages": {"messages": [ASKED, TOLD], "prompt": "Why?", "prompt_id": "1"},
    "conversations": {"conversations": [{"from": "human", "value": " Why?"}, {"from": "gpt", "value": "So. "}]},
    "roles": {"conversations": [ASKED, TOLD], "system": ""},
    "prompt": {"prompt": "Why?", "completion": "So."},
    "sides": {"prompt": [ASKED], "completion": [TOLD]},
    "instruction": {"instruction": "Why?", "input": "", "output": "So."},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(form: str) -> None:
    talk = read_conversation(FORMS[form])
    assert not isinstance(talk, str) and talk.messages == [ASKED, TOLD]
    named = read_conversation({**FORMS[form], "source": "people"})
    assert not isinstance(named, str) and named.source == "people"


def test_an_input_and_a_system_prompt_are_kept() -> None:
    alpaca = read_conversation({"instruction": "Add.", "input": "1 and 2", "output": "3"})
    assert not isinstance(alpaca, str) and alpaca.messages[0]["content"] == "Add.\n\n1 and 2"
    talk = read_conversation({**FORMS["conversations"], "system": "Be brief."})
    assert not isinstance(talk, str) and talk.messages == [{"role": "system", "content": "Be brief."}, ASKED, TOLD]


def test_thinking_is_text() -> None:
    thought = "<think>\nWell, 1 < 2.\n</think>\n\nSo."
    talk = read_conversation({"messages": [ASKED, {**TOLD, "content": thought}]})
    assert not isinstance(talk, str) and talk.messages[1]["content"] == thought


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([TOLD], NO_PROMPT),
        ([{**ASKED, "content": " "}, TOLD], NO_PROMPT),
        ([ASKED], NO_ANSWER),
        ([ASKED, {**TOLD, "content": ""}], NO_ANSWER),
        ([ASKED, TOLD, ASKED], NOT_LAST),
        ([ASKED, {**TOLD, "role": "tool"}], ROLES),
        ([], NO_PROMPT),
    ],
)
def test_what_teaches_nothing_is_named(messages: list[dict[str, str]], fault: str) -> None:
    assert read_conversation({"messages": messages}) == fault


def test_an_unknown_form_is_an_error() -> None:
    with pytest.raises(ConversationError, match="found the columns prompt, chosen; 'messages' or"):
        read_conversation({"prompt": "a", "chosen": "b"})
    with pytest.raises(ConversationError, match="messages is a str"):
        read_conversation({"messages": "Why?"})
    with pytest.raises(ConversationError, match="output is a int"):
        read_conversation({"instruction": "a", "output": 3})
