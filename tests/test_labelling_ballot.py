"""Votes: blind, on the disk at once, taken back and continued; a label file at every moment."""

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from label_fakes import STEPS, ballot, pairs, prefer
from report_fakes import whole_chain

from eval.labels import read_labels
from posttrain.errors import PosttrainError
from posttrain.labelling.ballot import Ballot
from posttrain.labelling.label_file import LabelFile
from posttrain.labelling.pairs import Pair, Steps, a_first, chosen_steps, find_pairs, shuffled


def winners(path: Path) -> list[int]:
    return [label.votes[0] for label in read_labels(path.read_text(), "votes")]  # type: ignore[union-attr]


def close(held: Ballot) -> None:
    held.file.file.close()


def test_a_vote_is_for_a_step_whatever_place_it_had(tmp_path: Path) -> None:
    held = ballot(tmp_path / "v", pairs(40))
    places = []
    while shown := held.shown:
        places.append("new" in shown.first)
        prefer(held, "new")
    assert winners(tmp_path / "v") == [1] * 40
    assert 10 < sum(places) < 30  # the order of the two is drawn
    rows = held.file.rows
    assert [row["shown_first"] == "a" for row in rows] == places
    assert all(row["steps"] == {"a": "sft", "b": "base"} and row["words"] == ["fox"] for row in rows)
    other = ballot(tmp_path / "w", pairs(40))
    while other.shown:
        other.vote("a")  # negative control: who always takes the first place favours no step
    assert 10 < winners(tmp_path / "w").count(1) < 30


def test_what_a_voter_is_shown_names_no_step(tmp_path: Path) -> None:
    shown = ballot(tmp_path / "v").shown
    assert shown is not None and shown._fields == ("id", "prompt", "first", "second")
    assert not {"sft", "base"} & set(json.dumps(shown).replace('"', " ").split())


def test_the_order_is_the_seeds_and_first_samples_come_first() -> None:
    made = [Pair(f"p{n}/{sample}", sample, "", "a", "b", {}) for n in range(30) for sample in (0, 1)]
    order = shuffled(made, 1)
    assert order == shuffled(list(reversed(made)), 1) != shuffled(made, 2)
    assert [pair.sample for pair in order] == [0] * 30 + [1] * 30
    assert [a_first(pair, 1) for pair in made] != [a_first(pair, 2) for pair in made]


def test_a_vote_is_continued_where_it_was_left(tmp_path: Path) -> None:
    whole = ballot(tmp_path / "whole")
    while whole.shown:
        prefer(whole, "new")
    held = ballot(tmp_path / "parts")
    prefer(held, "new")
    held.skip()
    prefer(held, "new")
    assert held.voted == 2 and held.skipped == 1
    close(held)
    again = ballot(tmp_path / "parts")
    assert again.voted == 2 and again.skipped == 0 and len(again.waiting) == 4  # what was skipped is asked again
    while again.shown:
        prefer(again, "new")
    lines = [sorted((tmp_path / name).read_text().splitlines()) for name in ("whole", "parts")]
    assert lines[0] == lines[1]


def test_undo_takes_back_votes_and_skips_in_their_order_also_those_of_earlier(tmp_path: Path) -> None:
    held = ballot(tmp_path / "v")
    assert not held.undo()
    first = held.shown
    prefer(held, "new")
    second = held.shown
    held.skip()
    assert held.undo() and held.shown == second and winners(tmp_path / "v") == [1]
    close(held)
    again = ballot(tmp_path / "v")
    assert again.undo() and again.shown == first and (tmp_path / "v").read_bytes() == b""
    prefer(again, "old")
    assert winners(tmp_path / "v") == [2]
    assert again.shown == second


@pytest.mark.parametrize("kept", [0, 1, 5, 40])
def test_a_half_written_line_is_cut_off(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "v"
    held = ballot(path)
    prefer(held, "new")
    one = path.read_bytes()
    prefer(held, "new")
    two = path.read_bytes()
    close(held)
    path.write_bytes(two[: len(one) + kept])
    again = ballot(path)
    assert again.voted == 1 and path.read_bytes() == one
    prefer(again, "new")
    assert path.read_bytes() == two


def test_a_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "v"
    held = ballot(path)
    prefer(held, "new")
    whole = path.read_bytes()
    close(held)
    path.write_bytes(whole[:-1])
    assert ballot(path).voted == 1 and path.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'[{"id": "1"}]', "a JSON list"),
        (b"notes of mine", "no vote, whole or half"),
        (b"notes\n", "not JSON"),
        (b'{"id": "1", "text": "x", "score": 2}\n', "row 1 has the fields id, text, score"),
        (b"\xff\n", "not UTF-8"),
        (b"\n\n", "blank lines"),
    ],
)
def test_a_file_of_something_else_is_refused_and_not_touched(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "v").write_bytes(text)
    with pytest.raises(PosttrainError, match=why):
        ballot(tmp_path / "v")
    assert (tmp_path / "v").read_bytes() == text


def test_votes_on_other_completions_are_refused(tmp_path: Path) -> None:
    held = ballot(tmp_path / "v")
    prefer(held, "new")
    close(held)
    for other in (pairs(a="newer"), [], [pair._replace(prompt="another") for pair in pairs()]):
        with pytest.raises(PosttrainError, match="holds a vote on other completions"):
            ballot(tmp_path / "v", other)
    with LabelFile(tmp_path / "v") as file, pytest.raises(PosttrainError, match="against"):
        Ballot(pairs(), Steps("base", "sft"), file, 0)
    ballot(tmp_path / "v")  # and the right ones are taken


def test_two_people_do_not_vote_into_one_file_at_once(tmp_path: Path) -> None:
    held = ballot(tmp_path / "v")
    with pytest.raises(PosttrainError, match="somebody votes into it now"):
        ballot(tmp_path / "v")
    close(held)
    ballot(tmp_path / "v")


def test_a_vote_is_on_the_disk_before_the_next_pair_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        flushed.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", noted)
    held = ballot(tmp_path / "v")
    prefer(held, "new")
    assert flushed == [(tmp_path / "v").stat().st_size]
    held.undo()
    assert flushed[1:] == [0]


def test_a_vote_that_cannot_be_written_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "v"
    held = ballot(path)
    prefer(held, "new")
    one, shown = path.read_bytes(), held.shown
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(one) + 20, limits[1]))
    try:
        with pytest.raises(OSError):
            prefer(held, "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == one and held.voted == 1 and held.shown == shown
    prefer(held, "new")
    assert winners(path) == [1, 1]


def test_whoever_is_killed_loses_no_vote(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        held = ballot(tmp_path / "v", pairs(50))
        for _ in range(7):
            prefer(held, "new")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert ballot(tmp_path / "v", pairs(50)).voted == 7  # and its lock has gone with it


def test_the_last_step_is_held_against_the_one_its_judge_knew(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    assert chosen_steps(run.nodes, None, None, "r") == Steps("sft", "base")
    assert chosen_steps(run.nodes, "base", "sft", "r") == Steps("base", "sft")
    unjudged = [(row, artifact) for row, artifact in run.nodes if row["kind"] != "judge"]
    assert chosen_steps(unjudged, None, None, "r") == Steps("sft", "base")
    for step, against, why in (
        ("rows", None, "no step 'rows'"),
        ("base", None, "no other step"),
        ("sft", "sft", "no other"),
    ):
        with pytest.raises(PosttrainError, match=why):
            chosen_steps(run.nodes, step, against, "r")
    with pytest.raises(PosttrainError, match="completions of base; two steps"):
        chosen_steps(run.nodes[:3], None, None, "r")


def test_pairs_are_of_one_prompt_and_equal_completions_are_left_out(tmp_path: Path) -> None:
    run = whole_chain(tmp_path / "one")
    found = find_pairs(run.nodes, STEPS, run.prompts, "r")
    assert len(found.pairs) == 24 and found.equal == 0
    pair = found.pairs[3]
    assert (pair.id, pair.a[:5], pair.b[:6]) == ("p03/0", "A sft", "A base") and pair.asked == {"words": ["fox", "run"]}
    same: Any = whole_chain(tmp_path / "two", {"sft": "The same.", "base": "The same."})
    with pytest.raises(PosttrainError, match="the same text on all 24 prompts"):
        find_pairs(same.nodes, STEPS, None, "r")
    run.prompts.write_text('{"id": "p03", "prompt": "changed", "words": ["owl"]}\n')
    assert find_pairs(run.nodes, STEPS, run.prompts, "r").pairs[3].asked == {}
