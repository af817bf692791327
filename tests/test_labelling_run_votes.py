"""Votes on a run by the command: a second table, sound JSON, all pairs judged once, and other files refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chain_fakes import FAKES, Quiet, commit_of, the_store, write_recipe
from judging_server import honest, judging
from label_fakes import NOISE, STEPS, TALE, calibrate_cli, write
from misbehaving_server import serving

from posttrain.chain.graph import build_graph
from posttrain.chain.identity import sha256_file
from posttrain.chain.recipe import load_recipe
from posttrain.chain.runner import read_run, run_chain
from posttrain.chain.stage import Metrics, StageContext
from posttrain.chain.store import Store
from posttrain.labelling import judges
from posttrain.labelling.correcting import Rate
from posttrain.labelling.label_file import label_row
from posttrain.labelling.pairs import Pair, find_pairs, shuffled
from posttrain.rows import read_rows, write_rows

cli = calibrate_cli


class Made(NamedTuple):
    """A run on the disk, its recipe, all its pairs, and the command's arguments that name it."""

    folder: Path
    pairs: list[Pair]
    arguments: list[str]

    def votes(self, count: int, name: str = "votes.jsonl", **change: Any) -> Path:
        """People take the tale in three of four pairs, in the order that `posttrain label` shows."""
        chosen = list(enumerate(shuffled(self.pairs, 0)))[:count]
        rows = [label_row(pair, _said(pair, n % 4 > 0), STEPS, True) | change for n, pair in chosen]
        return write(self.folder / name, rows)


def _said(pair: Pair, takes_the_tale: bool) -> str:
    return "a" if (pair.a == TALE) == takes_the_tale else "b"


def completions(config: Any, ctx: StageContext) -> Metrics:
    """A tale against longer noise at most prompts, either step's; the last four are the same text twice."""
    tells = ctx.inputs["model"].reference == "sft"
    rows = [
        {**row, "sample": 0, "text": TALE if n >= 36 or (n % 3 > 0) == tells else NOISE * 9}
        for n, row in enumerate(read_rows(config.prompts))
    ]
    write_rows(ctx.out / "completions.jsonl", rows)
    return {"summary": "sampled"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    table = FAKES | {"samples": dataclasses.replace(FAKES["samples"], run=completions)}
    monkeypatch.setattr("posttrain.stages.STAGES", table)
    path = write_recipe(tmp_path)
    write_rows(
        tmp_path / "prompts.jsonl", [{"id": f"p{n}", "prompt": f"Tell {n}.", "words": ["fox"]} for n in range(40)]
    )
    recipe, store = load_recipe(str(path), table), Store(the_store(tmp_path))
    run_chain(recipe, build_graph(recipe, table, None, commit_of), store, Quiet())
    found = find_pairs(read_run(recipe.name, store), STEPS, tmp_path / "prompts.jsonl", "r")
    return Made(tmp_path, found.pairs, ["--run", str(path), "--store", str(store.root)])


def test_the_command_adds_a_second_table(made: Made, cli: Any) -> None:
    votes = made.votes(16)
    code, out, err = cli("--judge", "rule", "--labels", votes, *made.arguments)
    assert code == 0 and err == ""
    plain = cli("--judge", "rule", "--labels", votes)[1]
    first, second = out.split("\n\nWin rate of ")
    assert first.startswith("16 pairs on 16 prompts in ") and "| rule | 16 of 16 |" in first and "Win rate" not in plain
    assert second.startswith(
        "sft over base: 40 pairs on 40 prompts, 16 prompts with a vote\n\n| judge | people alone, % |"
    )
    assert "judge alone, not corrected, % | corrected, % | trust | labels saved |" in second
    rows = [line for line in second.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| judge", "| rule", "| longest"] and rows[1].count("|") == 7
    assert "| 65.0 [" in rows[1]  # the judge takes the 24 tales of step a; 4 of 40 are ties
    assert "4 pairs are the same text twice: they count as ties" in second
    assert "a random sample" in second and "prediction-powered inference" in second


def test_json_has_the_win_rates_and_null_without_a_run(made: Made, cli: Any) -> None:
    votes = made.votes(16)
    code, out, _ = cli("--judge", "longest", "--labels", votes, *made.arguments, "--json")
    found = json.loads(out)["win_rate"]
    assert code == 0 and json.loads(cli("--judge", "longest", "--labels", votes, "--json")[1])["win_rate"] is None
    judged = found.pop("judges")
    assert found.pop("notes") and found == {
        "steps": {"a": "sft", "b": "base"},
        "pairs": 40,
        "equal": 4,
        "prompts": 40,
        "labelled_pairs": 16,
        "labelled_prompts": 16,
    }
    (row,) = judged
    assert list(row) == list(Rate._fields) and row["judge"] == "longest" and row["judged"] == 36
    assert set(row["people"]) == set(row["corrected"]) == {"mean", "low", "high"}
    assert row["judge_alone"]["mean"] == pytest.approx(0.35) and row["tuning"] == 0  # it takes the noise
    assert row["corrected"] == row["people"] and row["labels_saved"] is None


def test_in_a_terminal_both_tables_are_drawn(made: Made, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = cli("--judge", "rule", "--labels", made.votes(16), *made.arguments)
    assert code == 0 and "| judge |" not in out and out.count("┏") == 2 and "people alone, %" in out


def test_recorded_verdicts_correct_where_they_cover_the_pairs(made: Made, cli: Any) -> None:
    said = [{"id": pair.id, "winner": _said(pair, True)} for pair in made.pairs]
    votes = made.votes(16)
    labelled = {row["id"] for row in read_rows(votes)}
    whole = write(made.folder / "whole.jsonl", said)
    part = write(made.folder / "part.jsonl", [row for row in said if row["id"] in labelled])
    names = ["--judge", f"recorded:{whole}", "--judge", f"recorded:{part}"]
    code, out, _ = cli(*names, "--labels", votes, *made.arguments, "--json")
    found = json.loads(out)
    rows = {row["judge"]: row for row in found["win_rate"]["judges"]}
    assert code == 0 and rows["recorded:whole.jsonl"]["corrected"] and rows["recorded:whole.jsonl"]["judged"] == 36
    assert rows["recorded:part.jsonl"]["corrected"] is None and rows["recorded:part.jsonl"]["judge_alone"] is None
    assert any("part.jsonl: verdicts on 16 of the 36 pairs" in note for note in found["win_rate"]["notes"])
    assert {row["judge"]: row["scored"] for row in found["judges"]} == dict.fromkeys(rows, 16)


def test_an_endpoint_judges_all_pairs_through_the_journal(made: Made, cli: Any) -> None:
    votes = made.votes(16)
    with serving(judging(honest([]))) as server:
        arguments = ["--judge", "openai:m", "--base-url", server.url, "--labels", votes, *made.arguments, "--json"]
        code, out, err = cli(*arguments)
        assert code == 0, err
        assert len(server.calls) == 1 + 2 * 36
        again = cli(*arguments)[1]
        assert len(server.calls) == 1 + 2 * 36
    found = json.loads(out)["win_rate"]
    assert json.loads(again)["win_rate"] == found
    row = next(row for row in found["judges"] if row["judge"] == "openai:m")
    assert row["judged"] == 36 and row["judge_alone"]["mean"] == pytest.approx(0.65) and row["corrected"]


def test_prompts_that_have_changed_are_said(made: Made, cli: Any) -> None:
    votes = made.votes(16)
    assert "is not the one" not in cli("--judge", "rule", "--labels", votes, *made.arguments)[1]
    before = sha256_file(made.folder / "prompts.jsonl")
    with (made.folder / "prompts.jsonl").open("a") as file:
        file.write('{"id": "new", "prompt": "Tell more."}\n')
    assert sha256_file(made.folder / "prompts.jsonl") != before
    assert "file of prompts is not the one" in cli("--judge", "rule", "--labels", votes, *made.arguments)[1]


def test_a_file_that_is_not_of_the_run_is_said_before_any_judge_works(
    made: Made, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = read_rows(made.votes(16))
    worked: list[str] = []
    monkeypatch.setattr(judges, "rule_judge", lambda *_: worked.append("rule"))
    one, *others = good
    for rows, why in (
        (good[:4], "votes on 4 prompts; at least 5 are needed"),
        ([one | {"a": "Another tale."}, *others], f"other completions ('{one['id']}')"),
        ([one | {"prompt": "Another prompt."}, *others], "other completions"),
        ([one | {"id": "p99/0"}, *others], "other completions ('p99/0')"),
        ([row | {"steps": {"a": "base", "b": "sft"}} for row in good], "other completions"),
        ([row | {"steps": {"a": "dpo", "b": "base"}} for row in good], "no step 'dpo'"),
        (
            [one | {"steps": {"a": "base", "b": "sft"}}, *others],
            "several pairs of steps (base against sft; sft against",
        ),
        ([{key: row[key] for key in row if key != "steps"} for row in good], "line 1: no vote with the 'steps'"),
        ([{"id": "0", "prompt": "p", "text": "t", "score": 3}], "no vote with the 'steps'"),
    ):
        path = write(made.folder / "bad.jsonl", rows)
        code, out, err = cli("--judge", "rule", "--labels", path, *made.arguments)
        assert code == 2 and out == "" and why in err and str(path) in err and err.count("\n") == 1, why
    code, _, err = cli("--judge", "rule", "--labels", made.votes(16), "--run", "absent")
    assert code == 2 and "recipe 'absent'" in err
    assert worked == []
