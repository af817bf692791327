"""Label files are read as they are, and what is no label is refused with its place."""

import json
from typing import Any

import pytest
from judge_data import pandalm, real_text

from eval.labels import LabelError, PairLabel, ScoreLabel, read_labels

PAIR: dict[str, Any] = {"id": "7", "prompt": "Say hi.", "a": "Hi!", "b": "No.", "votes": ["a", "tie", 1, "2", "B"]}
SCORE: dict[str, Any] = {"id": "8", "prompt": "Say hi.", "text": "Hi!", "scores": [7, 6.5]}


def _lines(*rows: dict[str, Any]) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n\n"


def test_the_plain_form_holds_votes_or_one_label_for_pairs_and_scores() -> None:
    label = {"id": 9, "prompt": "p", "a": "x", "b": "y", "label": "tie", "who": "is left alone"}
    assert read_labels(_lines(PAIR, label), "f") == [
        PairLabel("7", "Say hi.", "Hi!", "No.", (1, 0, 1, 2, 2)),
        PairLabel("9", "p", "x", "y", (0,)),
    ]
    (found,) = read_labels(_lines(SCORE), "f")
    assert isinstance(found, ScoreLabel) and found.score == 6.75
    single = {key: value for key, value in SCORE.items() if key != "scores"} | {"score": 3}
    assert read_labels(_lines(single), "f") == [ScoreLabel("8", "Say hi.", "Hi!", (3.0,))]


def test_a_json_list_holds_the_same_labels_as_json_lines() -> None:
    assert read_labels(json.dumps([PAIR]), "f") == read_labels(_lines(PAIR), "f")


@pytest.mark.parametrize(
    ("votes", "winner"),
    [((1, 1, 2), 1), ((0, 0, 2), 0), ((2,), 2), ((0, 1, 2), None), ((1, 2), None), ((1, 1, 2, 2, 0), None)],
)
def test_the_winner_is_the_vote_of_most_people_and_there_is_none_without_one(
    votes: tuple[int, ...], winner: int
) -> None:
    assert PairLabel("1", "p", "a", "b", votes).winner == winner


def test_the_published_form_of_pandalm_is_read_with_its_published_distribution() -> None:
    labels = pandalm()
    assert len(labels) == 999 and all(len(label.votes) == 3 for label in labels)
    assert [sum(label.winner == kind for label in labels) for kind in (0, 1, 2)] == [105, 422, 472]
    assert (
        labels[0].prompt.endswith("please let me know.")
        and labels[0].b == "If you have any questions, please let me know."
    )


def test_the_published_form_of_llmbar_is_read() -> None:
    labels = read_labels(real_text("llmbar-natural.json"), "llmbar")
    assert len(labels) == 100
    assert [label.winner for label in labels if isinstance(label, PairLabel)].count(2) == 58
    assert [label.id for label in labels[:2]] == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: holds no rows"),
        ("{", "f: not JSON"),
        ("[1]", "f, row 1: a JSON int"),
        (_lines(PAIR, {**PAIR, "id": "9", "votes": ["c"]}), "f, line 2: a vote 'c'; 'a' or 1"),
        (_lines({**PAIR, "votes": []}), "no votes"),
        (_lines({**PAIR, "votes": [True]}), "a vote True"),
        (_lines({key: value for key, value in PAIR.items() if key != "votes"}), "a vote missing"),
        (_lines({**PAIR, "b": None}), "f, line 1: 'b' is missing; text is needed"),
        (_lines({**SCORE, "scores": ["high"]}), "a score 'high'"),
        ('{"id": 1, "prompt": "p", "text": "t", "score": NaN}', "a score nan"),
        (_lines(PAIR, PAIR), "id '7' is given twice"),
        (_lines(PAIR, SCORE), "1 pairs and 1 scores"),
    ],
)
def test_what_is_no_label_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_labels(text, "f")
