"""A language model as judge in the report: what it adds is said once and in words, and a rule judge adds nothing."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import no_wait
from page_tags import NASTY, Tags, unsafe
from report_fakes import ASKED, MODEL, PAIRWISE, RULE, Run, draw_once, whole_chain
from scripted_judges import content, fenced_parts

from eval import gate
from eval.asking import Question, Reply
from eval.rubric import load_rubric
from posttrain.report.markdown import report_markdown
from posttrain.report.model_judge import MOST_UNSCORED, NOT_CONTROLLED, judge_notes, remarks, win_sentence
from posttrain.report.page import page
from posttrain.report.pairs import pairs_of
from posttrain.report.records import judge_name
from posttrain.report.wording import percent
from posttrain.rows import read_rows, write_rows
from posttrain.stages.judges import JudgeChoice
from posttrain.stages.judging import shares
from posttrain.stages.pairing import compare_steps

PANEL = "openai:llama-3.1-8b+openai:org/qwen+7b"
SAID = (
    "win rate 65 % [51, 78], length-controlled 60 % [47, 72]; 12 % of the verdicts changed when the answers changed "
    "places; the first place was preferred in 55 % of those that named a winner; all 24 pairs have a verdict"
)
LOST = {"n_scored": 21, "win_rate": None, "length_controlled": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_wait)
    draw_once(monkeypatch)


def forms(word: str) -> frozenset[str]:
    return frozenset({word})


def made(run: Run) -> str:
    return page("a run", run.nodes, run.prompts, forms)


def shown(run: Run) -> str:
    """The text of the page with plain spaces."""
    return Tags(made(run)).text.replace("\u00a0", " ")


def part_of(run: Run, name: str) -> Path:
    return next(artifact.path for row, artifact in run.nodes if row["name"] == name)


def longer(questions: Sequence[Question]) -> list[Reply]:
    """A judge that prefers the longer answer."""
    parts = [fenced_parts(question) for question in questions]
    letters = ["A" if len(part["ANSWER A"]) > len(part["ANSWER B"]) else "B" for part in parts]
    return [Reply(json.dumps({"reason": "more", "verdict": letter})) for letter in letters]


def rewrite(run: Run, step: str, file: str, **found: Any) -> None:
    """Change every row of a judge's file."""
    path = part_of(run, f"{step}.judge") / file
    write_rows(path, [row | found for row in read_rows(path)])


def test_the_win_rate_against_the_step_before_is_one_line_of_page_and_markdown(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=MODEL)
    assert f"sft against base{SAID}" in shown(run)
    lines = report_markdown("a run", run.nodes).splitlines()
    assert f"  - against base: {SAID}" in lines
    assert sum("win rate" in line for line in lines) == 1  # the base and the rows are compared with nothing


def test_with_too_many_pairs_unscored_there_is_no_rate_and_the_line_says_why(tmp_path: Path) -> None:
    said = "no win rate: 3 of 24 pairs without a verdict, more than 2 %; 12 % of the verdicts changed"
    run = whole_chain(tmp_path, by=MODEL, pairwise=PAIRWISE | LOST)
    assert f"sft against base{said}" in shown(run) and f"against base: {said}" in report_markdown("a run", run.nodes)
    assert percent(gate.MOST_UNSCORED) == MOST_UNSCORED  # the line and the stage name the same share


def test_a_pair_without_a_verdict_is_counted_and_no_loss() -> None:
    said = win_sentence(PAIRWISE | {"n_asked": 60, "n_scored": 59})
    assert said.startswith("win rate 65 %") and said.endswith(
        "; 1 of 60 pairs without a verdict, counted for neither answer"
    )
    assert "without" not in win_sentence(PAIRWISE)


def test_what_could_not_be_known_is_said_or_left_out() -> None:
    assert f"65 % [51, 78], {NOT_CONTROLLED};" in win_sentence(PAIRWISE | {"length_controlled": None})
    assert "none named a winner" in win_sentence(PAIRWISE | {"first_share": None})
    nothing = PAIRWISE | LOST | {"n_scored": 0, "flip_rate": None, "first_share": None}
    assert win_sentence(nothing) == "no win rate: 24 of 24 pairs without a verdict, more than 2 %"


def test_the_rate_of_a_judge_that_failed_its_canaries_does_not_count(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=MODEL, verdict="JUDGE INVALID")
    assert "against base" + "JUDGE INVALID, so this does not count: win rate" in shown(run)
    assert "so this does not count" not in shown(whole_chain(tmp_path / "passed", by=MODEL))


def test_choices_are_shares_above_zero_and_the_unscored_are_counted(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=MODEL)
    assert "  - age group: 4 to 5 (71 %), 6 to 7 (29 %)\n" in report_markdown("a run", run.nodes)
    path = part_of(run, "sft.judge") / "verdicts.jsonl"
    rows = read_rows(path)
    for row in rows[:5]:
        row["choices"]["age_group"] = {"score": None, "reason": "no reply"}
    write_rows(path, rows)
    assert "sft age group4 to 5 (71 %), 6 to 7 (29 %); 5 of 24 unscored" in shown(run)
    assert "3 or under" not in shown(run)
    run.nodes[-1][1].record["metrics"]["choices"] = {"age_group": {}}
    rewrite(run, "sft", "verdicts.jsonl", choices={"age_group": {"score": None, "reason": "no reply"}})
    assert "sft age group24 of 24 unscored" in shown(run)


def test_shares_are_not_rounded_to_none_or_all() -> None:
    assert [percent(share) for share in (0, 0.004, 0.02, 0.7083, 0.997, 1)] == [
        "0 %", "under 1 %", "2 %", "71 %", "over 99 %", "100 %"
    ]  # fmt: skip


def test_what_an_endpoint_can_do_is_said_once_a_report(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=MODEL)
    note = ASKED["judge_notes"][0]
    assert len(remarks(run.nodes)) == 4 and judge_notes(run.nodes) == [note]
    assert shown(run).count(note) == report_markdown("a run", run.nodes).count(note) == 1
    run.nodes[-1][1].record["metrics"]["judge_notes"] = [note, "another one ignores json_schema"]
    assert judge_notes(run.nodes) == [note, "another one ignores json_schema"]


def test_a_rule_judge_adds_nothing(tmp_path: Path) -> None:
    words = (
        "win rate",
        "language model",
        "against",
        "Against",
        "age group",
        "tokens</th>",
        "The run sent",
        " tokens, $",
    )
    ruled, asked = whole_chain(tmp_path / "rule", by=RULE), whole_chain(tmp_path / "model", by=MODEL)
    without, with_model = (
        made(run).split("</style>")[1] + report_markdown("a run", run.nodes) for run in (ruled, asked)
    )
    assert [word for word in words if word in without] == []
    assert [word for word in words if word not in with_model] == []  # negative control


@pytest.mark.parametrize(("recorded", "name"), [
    ("rule (a proxy)", "rule judge (a proxy)"), ("openai:gpt-4o-mini", "language model gpt-4o-mini"),
    (PANEL, "panel of llama-3.1-8b and org/qwen+7b"), ("openai:a+openai:b+openai:c", "panel of a, b and c"),
    ("openai:a+b (new)", "language model a+b (new)"), ("", "judge"),
])  # fmt: skip
def test_a_judge_is_named_as_people_name_it(tmp_path: Path, recorded: str, name: str) -> None:
    assert judge_name({"judge": recorded}) == name
    run = whole_chain(tmp_path, by=recorded)
    assert f"Verdicts by the {name};" in shown(run) and f"primary axis, {name}" in shown(run)
    assert f"\nJudge: {name}. Scores" in report_markdown("a run", run.nodes)


def test_axes_are_those_of_the_judge_whatever_they_are(tmp_path: Path) -> None:
    run = Run(tmp_path, by=MODEL, axes=("helpfulness", "correctness"))
    run.add("base", "base", {})
    run.sample("base")
    run.judge("base", 3.0)
    text = made(run)
    assert text.count("<figcaption>") == 2 and "helpfulness, base" in Tags(text).text
    assert "grammar" not in text and "| step | scored | helpfulness | correctness |" in report_markdown("r", run.nodes)


def test_a_pair_says_who_won_in_both_orders(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=MODEL)
    text = shown(run)
    said = [
        "against basewonas A won: its end is an endas B won: the fox has a wish",
        "against basetieas A won: its end is an endas B lost: the fox has a wish",
        "against baselostas A lost: its end is an endas B lost: the fox has a wish",
    ]
    assert [text.count(part) for part in said] == [7, 7, 6]  # of 20 prompts
    rewrite(run, "sft", "pairs.jsonl", sample=1)
    assert "against basewon" not in shown(run)  # the answers that are shown are the first samples


def test_a_panel_shows_every_judge_and_a_missing_verdict_is_no_loss(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=PANEL)
    assert "llama-3.1-8b, as A won: its end is an end" in shown(run) and "org/qwen+7b, as B won" in shown(run)
    rewrite(run, "sft", "pairs.jsonl", win={"score": 0.75, "reason": "one tied"})
    assert "against basewon (0.75)" in shown(run)
    side = {"outcome": None, "reason": "HTTP 400"}
    sides = {"openai:m": {"new_first": side, "old_first": side}}
    rewrite(run, "sft", "pairs.jsonl", win={"score": None, "reason": "x"}, sides=sides)
    assert "against baseno verdictas A no verdict: HTTP 400as B no verdict: HTTP 400" in shown(run)
    assert "lost" not in shown(run)


def test_what_a_model_or_a_rubric_says_is_text(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=f"openai:{NASTY}", judge_notes=[NASTY], choices={NASTY: {NASTY: 1.0}})
    side = {"outcome": "new", "reason": NASTY}
    sides = {
        f"openai:{NASTY}": {"new_first": side, "old_first": side},
        "openai:b": {"new_first": side, "old_first": side},
    }
    rewrite(run, "sft", "pairs.jsonl", sides=sides)
    rewrite(run, "sft", "verdicts.jsonl", choices={NASTY: {"score": 1, "reason": NASTY}})
    text = made(run)
    assert unsafe(text) == [] and "<img" not in text
    assert Tags(text).text.count(NASTY) > 6 * 20  # four reasons and two names a pair, and the lines on the step


def test_markup_in_an_endpoints_words_is_no_markup_of_the_markdown(tmp_path: Path) -> None:
    note = "m at http://x refuses json_schema (HTTP 400: <html>\n# [busy](http://y) ![](http://z)\n`</html>)"
    text = report_markdown("a run", whole_chain(tmp_path, by=MODEL, judge_notes=[note]).nodes)
    assert r"(HTTP 400: \<html> # \[busy](http://y) !\[](http://z) \`\</html>)" in text


def test_calls_tokens_and_dollars_stand_in_the_accounts(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=MODEL)
    assert "cost$0.05" + "1,344 remote calls, 273,702 tokens" in shown(run)
    assert '<td class="n">448</td><td class="n">91,234</td><td class="n">$0.02</td>' in made(run)
    assert "\nThe run sent 1,344 remote calls: 273,702 tokens, $0.05.\n" in report_markdown("a run", run.nodes)


def test_the_report_reads_what_the_judge_stage_writes(tmp_path: Path) -> None:
    """The fakes have the shapes of the real thing: two judges, one of which gives no reply on one prompt."""

    def silent_once(questions: Sequence[Question]) -> list[Reply]:
        lost = ['"Story 0 with' in content(question) for question in questions]
        return [Reply(None, "HTTP 500") if one else reply for one, reply in zip(lost, longer(questions), strict=True)]

    run = whole_chain(tmp_path, {"base": "A fox ran.", "sft": "A fox ran far away and came home."}, by=PANEL)
    new, old = (read_rows(part_of(run, f"{step}.samples") / "completions.jsonl") for step in ("sft", "base"))
    choice = JudgeChoice(judge="panel", panel=({"model": "llama-3.1-8b"}, {"model": "org/qwen+7b"}))
    rubric = load_rubric(Path("eval/rubrics/story.md").read_text(encoding="utf-8"))
    prompts = {row["id"]: row for row in read_rows(run.prompts)}
    rows, figures = compare_steps(choice, rubric, [longer, silent_once], prompts, new, old)
    write_rows(part_of(run, "sft.judge") / "pairs.jsonl", rows)
    chosen = {"age_group": ["3 or under", "4 to 5", "6 to 7"]}
    counted = shares(read_rows(part_of(run, "sft.judge") / "verdicts.jsonl"), chosen)
    run.nodes[-1][1].record["metrics"] |= {"pairwise": figures, "choices": counted}
    text = shown(run)
    assert "win rate 100 % [" in text and NOT_CONTROLLED in text and "; all 24 pairs have a verdict" in text
    assert "0 % of the verdicts changed" in text and "preferred in 50 % of those" in text
    assert "org/qwen+7b, as A no verdict: HTTP 500" in text and "llama-3.1-8b, as B won: more" in text
    assert "sft age group4 to 5 (71 %), 6 to 7 (29 %)" in text


def test_a_step_that_was_compared_with_none_has_no_pairs(tmp_path: Path) -> None:
    run = whole_chain(tmp_path, by=MODEL)
    judges = {row["name"]: artifact for row, artifact in run.nodes}
    assert pairs_of(None) == pairs_of(judges["base.judge"]) == {} and len(pairs_of(judges["sft.judge"])) == 24
