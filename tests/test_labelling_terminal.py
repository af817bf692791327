"""Voting in a terminal, and the two commands from end to end."""

import dataclasses
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import FAKES, no_wait, the_store, write_recipe
from label_fakes import ballot
from rich.console import Console

from posttrain.chain.stage import Metrics, StageContext
from posttrain.cli import main
from posttrain.labelling.ballot import Ballot
from posttrain.labelling.pairs import Pair
from posttrain.labelling.terminal import visible, vote
from posttrain.rows import read_rows, write_rows

NASTY = "\x1b[2J\x1b]0;owned\x07 A\tfox\r\u202e.\x9b1m"


def typed(*words: str) -> Callable[[str], str]:
    """A voter who types these words and then ends the input."""
    left: Iterator[str] = iter(words)

    def ask(_: str) -> str:
        for word in left:
            return word
        raise EOFError

    return ask


def screen(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False, force_terminal=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_letters_and_words_vote(tmp_path: Path) -> None:
    held, console = ballot(tmp_path / "v"), screen()
    vote(held, console, typed("a", " B ", "t", "what?", "skip", "u", "tie", "q", "a"))
    assert held.voted == 4 and held.skipped == 0
    assert printed(console).count("a  A is better") == 2  # at the start, and after a word that is none
    assert "0 of 6 pairs have your vote" in printed(console)
    vote(held, console, typed("a"))
    assert held.voted == 5  # the end of the input is a way to quit


@pytest.mark.parametrize("width", [60, 120])
def test_the_prompt_and_both_texts_are_shown_and_no_step(tmp_path: Path, width: int) -> None:
    held, console = ballot(tmp_path / "v"), screen(width)
    shown = held.shown
    vote(held, console, typed("q"))
    text = printed(console)
    assert shown is not None and all(part in text for part in (shown.prompt, shown.first, shown.second))
    assert text.index(shown.first) < text.index(shown.second)
    assert "sft" not in text and "base" not in text


def test_a_completion_cannot_drive_the_terminal(tmp_path: Path) -> None:
    held, console = ballot(tmp_path / "v", [Pair("p/0", 0, NASTY, NASTY, "[bold]b[/bold]", {})]), screen()
    vote(held, console, typed("q"))
    text = printed(console)
    assert not {character for character in text if ord(character) < 32 or 0x7F <= ord(character) < 0xA0} - {"\n"}
    assert "\u202e" not in text and "␛[2J" in text and "[bold]b[/bold]" in text
    assert visible("a\nb é 漢 🦊") == "a\nb é 漢 🦊"  # negative control: texts are left alone


def test_an_end_of_the_ballot_ends_the_vote(tmp_path: Path) -> None:
    held = ballot(tmp_path / "v", [])
    vote(held, screen(), typed("a"))
    assert held.voted == 0


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with fake stages whose steps write different texts; gives exit code, output, errors."""

    def samples(config: Any, ctx: StageContext) -> Metrics:
        step = ctx.inputs["model"].reference
        rows = [{**row, "sample": 0, "text": f"A {step} tale."} for row in read_rows(config.prompts)]
        write_rows(ctx.out / "completions.jsonl", rows)
        return {"summary": "sampled"}

    table = types.ModuleType("posttrain.stages")
    made = FAKES | {"samples": dataclasses.replace(FAKES["samples"], run=samples)}
    table.STAGES = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "posttrain.stages", table)
    monkeypatch.setattr(os, "fsync", no_wait)

    def call(*arguments: str, typing: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typing))
        code = 0
        try:
            main([*arguments, "--store", str(the_store(tmp_path))])
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_run_is_voted_on_and_judges_are_held_against_the_votes(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    code, _, err = cli("label", path)
    assert code == 2 and "Run it first" in err
    cli("run", path)
    code, out, _ = cli("label", path, typing="a\n")
    assert code == 0 and "1 of 2 pairs have a vote" in out and "A sft tale." in out
    code, out, _ = cli("label", path, "--json", typing="tie\n")
    votes = tmp_path / "runs/fake/labels-sft-base.jsonl"
    assert code == 0 and json.loads(out) == {
        "file": str(votes),
        "steps": {"a": "sft", "b": "base"},
        "pairs": 2,
        "voted": 2,
        "equal": 0,
    }
    assert [row["steps"] for row in read_rows(votes)] == [{"a": "sft", "b": "base"}] * 2
    code, out, _ = cli("calibrate", "--judge", "rule", "--labels", str(votes))
    assert code == 0 and "2 pairs on 2 prompts" in out and "| longest | 2 of 2 |" in out
    code, _, err = cli("label", path, "--step", "rows")
    assert code == 2 and "no step 'rows'" in err and err.count("\n") == 1


def test_votes_go_where_they_are_told_to(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    cli("run", path)
    mine = tmp_path / "deep/mine.jsonl"
    assert cli("label", path, "--out", str(mine), "--seed", "3", typing="a\nb\n")[0] == 0
    assert len(read_rows(mine)) == 2 and not (tmp_path / "runs/fake/labels-sft-base.jsonl").exists()
    code, _, err = cli("label", path, "--out", str(tmp_path))
    assert code == 2 and "--out FILE" in err


def test_an_interruption_is_an_ordinary_end(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_recipe(tmp_path))
    cli("run", path)
    said: list[str] = ["a"]

    def interrupted(self: Ballot) -> Any:
        if said:
            return original(self)
        raise KeyboardInterrupt

    original = Ballot.shown.fget
    assert original is not None
    monkeypatch.setattr(Ballot, "shown", property(interrupted))
    monkeypatch.setattr("builtins.input", lambda *_: said.pop())
    code, out, _ = cli("label", path)
    assert code == 0 and "1 of 2 pairs have a vote" in out
