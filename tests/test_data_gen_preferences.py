"""Laws of reading preferences: whatever the form, the same pair comes out; what teaches nothing has a name."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.preferences import (
    APART,
    NO_ANSWER,
    NO_PROMPT,
    NOT_LAST,
    ROLES,
    Labelled,
    Preference,
    PreferenceError,
    form_of,
    read_labelled,
    read_preference,
)

some = settings(max_examples=40, deadline=None, database=None, derandomize=True)
Message = dict[str, str]
texts = st.text(st.sampled_from("ab :\n.é"), min_size=1, max_size=20).map(str.strip).filter(bool)
said = st.sampled_from(["Say: Human: or Assistant: are names.", "two\n\nparagraphs", "Assistant"]) | texts


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


@st.composite
def conversations(draw: st.DrawFn, longest: int = 2) -> list[Message]:
    """Turns of a user and an assistant that end with the user's."""
    turns = draw(st.lists(st.tuples(said, said), max_size=longest))
    return [message for asked, told in turns for message in (user(asked), assistant(told))] + [user(draw(said))]


pairs = st.tuples(conversations(), said, said)


def transcript(messages: list[Message]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in messages)


def as_hh(prompt: list[Message], chosen: str, rejected: str) -> dict[str, Any]:
    sides = {"chosen": chosen, "rejected": rejected}
    return {name: transcript([*prompt, assistant(text)]) for name, text in sides.items()}


def as_trl(prompt: list[Message], chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


def as_trl_implicit(prompt: list[Message], chosen: str, rejected: str) -> dict[str, Any]:
    return {"chosen": [*prompt, assistant(chosen)], "rejected": [*prompt, assistant(rejected)]}


def as_trl_texts_after_messages(prompt: list[Message], chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def as_ultrafeedback(prompt: list[Message], chosen: str, rejected: str) -> dict[str, Any]:
    conversation = as_trl_implicit(prompt, chosen, rejected)
    return {"prompt": prompt[-1]["content"], **conversation, "score_chosen": 8.5, "score_rejected": 4}


def as_trl_transcript(prompt: list[Message], chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": f"{transcript(prompt)}\n\nAssistant:", "chosen": f" {chosen}", "rejected": f" {rejected}"}


FORMS = {
    as_hh: "hh",
    as_trl: "trl",
    as_trl_implicit: "trl",
    as_trl_texts_after_messages: "trl",
    as_ultrafeedback: "ultrafeedback",
    as_trl_transcript: "trl",
}
Read = Callable[[dict[str, Any]], Preference | str]


def law(read: Read, write: Any, prompt: list[Message], chosen: str, rejected: str) -> bool:
    found = read(write(prompt, chosen, rejected))
    scores = (8.5, 4.0) if write is as_ultrafeedback else (None, None)
    return found == Preference(prompt, chosen, rejected, *scores, FORMS[write])


@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__name__)
def test_a_pair_comes_out_of_every_form_as_it_went_in(write: Any) -> None:
    @some
    @given(pairs)
    def look(pair: tuple[list[Message], str, str]) -> None:
        assert law(read_preference, write, *pair)

    look()


def naive(row: dict[str, Any]) -> Preference | str:
    """HH cut wherever a speaker's name stands."""
    parts = {name: row[name].split("Assistant:") for name in ("chosen", "rejected")}
    prompt = [user(parts["chosen"][0].replace("Human:", "").strip())]
    return Preference(prompt, parts["chosen"][-1].strip(), parts["rejected"][-1].strip(), None, None, "hh")


def test_the_law_catches_a_reader_that_cuts_at_every_name() -> None:
    """Negative control."""
    assert law(naive, as_hh, [user("a")], "b", "c")
    assert not law(naive, as_hh, [user("a")], "Say: Assistant: is a name.", "c")
    assert not law(naive, as_hh, [user("a"), assistant("b"), user("c")], "d", "e")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, NO_PROMPT),
        ({"chosen": "a", "rejected": "b"}, NO_PROMPT),
        ({"instruction": "", "input": "", "chosen": "a", "rejected": "b"}, NO_PROMPT),
        ({"prompt": [assistant("x")], "chosen": "a", "rejected": "b"}, NO_PROMPT),
        ({"prompt": "x", "chosen": "a", "rejected": " \n"}, NO_ANSWER),
        ({"prompt": "x", "chosen": [], "rejected": []}, NO_ANSWER),
        ({"chosen": "\n\nHuman: x\n\nAssistant:", "rejected": "\n\nHuman: x\n\nAssistant: y"}, NO_ANSWER),
        ({"chosen": "\n\nHuman: x\n\nAssistant: y\n\nHuman: z", "rejected": "\n\nHuman: x\n\nAssistant: y"}, NOT_LAST),
        ({"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "\n\nHuman: z\n\nAssistant: y"}, APART),
        ({"prompt": "q", "chosen": [user("x"), assistant("y")], "rejected": [user("x"), assistant("z")]}, APART),
        ({"prompt": [{"role": "tool", "content": "x"}], "chosen": "a", "rejected": "b"}, ROLES),
    ],
)
def test_a_row_that_teaches_nothing_is_named_and_no_error(row: dict[str, Any], fault: str) -> None:
    assert read_preference(row) == fault


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a"}, "found the columns text; 'chosen' and 'rejected' are needed"),
        ({"prompt": "x", "chosen": 5, "rejected": "b"}, "chosen is a int; a text or a list of messages"),
        ({"prompt": "x", "chosen": [{"content": "a"}], "rejected": "b"}, "'role' and 'content' as texts"),
        ({"instruction": 4, "chosen": "a", "rejected": "b"}, "instruction is a int"),
        ({"prompt": "x", "completion": "y", "label": True}, "format: unpaired"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": "8"}, "score_chosen is '8'; a finite number"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": float("nan")}, "a finite number"),
    ],
)
def test_a_row_of_no_known_form_is_an_error(row: dict[str, Any], said: str) -> None:
    with pytest.raises(PreferenceError, match=said):
        read_preference(row)


def test_an_alpaca_row_asks_with_its_input_and_a_system_message_stays() -> None:
    row = {"instruction": "Fix it. ", "input": "He go.", "output": "x", "chosen": "He goes.", "rejected": "No."}
    assert read_preference(row) == Preference([user("Fix it.\n\nHe go.")], "He goes.", "No.", None, None, "alpaca")
    system = {"role": "system", "content": "Be brief."}
    both = {name: [system, user("x"), assistant(name)] for name in ("chosen", "rejected")}
    found = read_preference({"prompt": "x", **both, "score_chosen": 1, "score_rejected": None, "source": "evol"})
    assert found == Preference([system, user("x")], "chosen", "rejected", 1.0, None, "evol")


def test_a_labelled_answer_is_read_in_trls_forms() -> None:
    row = {"prompt": "x", "completion": [assistant("y")], "label": False}
    assert form_of(row) == "unpaired"
    assert read_labelled(row) == Labelled([user("x")], "y", False, "unpaired")
    whole = {"completion": [user("x"), assistant(" y")], "label": True, "source": "people"}
    assert read_labelled(whole) == Labelled([user("x")], "y", True, "people")
    assert read_labelled({**row, "completion": " "}) == NO_ANSWER
    assert read_labelled({**row, "prompt": " "}) == NO_PROMPT
    with pytest.raises(PreferenceError, match="label is '1'; true or false"):
        read_labelled({**row, "label": 1})
    with pytest.raises(PreferenceError, match="one form a file"):
        read_labelled(as_trl([user("x")], "a", "b"))


def test_a_real_list_of_preferences_is_read_whole() -> None:
    path = SHARED / "data" / "instruct" / "preference-1100.json"
    if not path.is_file():
        pytest.skip("needs the preference data beside the project")
    rows = json.loads(path.read_text())
    found = Counter(type(read_preference(row)).__name__ for row in rows)
    assert found == {"Preference": 1100}
    one = read_preference(rows[0])
    assert isinstance(one, Preference) and one.prompt[0]["content"].endswith("freind --> friend")
