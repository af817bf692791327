"""The pairs stage on a model's own answers: what is asked, who is chosen, and that a killed run asks nothing twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pairs_stage import FEW, bytes_of, paired, rows_of, rows_step, scored, text_of, usable, written
from stage_context import PROMPTS, RUBRIC, checked, given

from eval.statistics import cluster_bootstrap
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages import STAGES


@pytest.fixture(scope="module")
def first(faulty: Path, prompt_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("first")
    return folder, paired(folder, faulty, prompt_rows)


Run = tuple[Path, dict[str, Any]]


def test_rows_are_pairs_in_the_conversational_format(first: Run, prompt_rows: Path) -> None:
    folder, found = first
    asked = {row["id"]: row["messages"][:-1] for row in read_rows(prompt_rows / "train.jsonl")}
    rows = rows_of(folder)
    assert len(rows) == found["rows"] + found["rows_held_out"] and found["rows_held_out"] == 4
    for row in rows:
        assert [*row] == ["id", "prompt", "chosen", "rejected", "score_chosen", "score_rejected", "source"]
        assert row["prompt"] == asked[row["id"]] and row["source"] == "scores by rule"
        assert text_of(row, "chosen") != text_of(row, "rejected")
        assert row["score_chosen"] > row["score_rejected"]


def are_best_and_worst(rows: Sequence[Row], scores: Mapping[str, Mapping[str, float]]) -> bool:
    return all(
        scores[row["id"]][text_of(row, "chosen")] == max(scores[row["id"]].values())
        and scores[row["id"]][text_of(row, "rejected")] == min(scores[row["id"]].values())
        for row in rows
    )


def test_of_the_answers_the_judge_likes_best_is_chosen_and_worst_rejected(first: Run, prompt_rows: Path) -> None:
    folder, _ = first
    rows, scores = rows_of(folder), scored(folder, prompt_rows)
    assert are_best_and_worst(rows, scores)
    for row in rows:
        assert row["score_chosen"] == pytest.approx(max(scores[row["id"]].values()), abs=1e-3)
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    assert not are_best_and_worst(turned, scores)  # negative control


def test_what_makes_no_pair_is_counted_and_no_faulty_answer_stands_on_a_side(first: Run) -> None:
    folder, found = first
    answers, left = written(folder), usable(folder)
    assert len(answers) == found["answers"] == 60
    assert found["answers_left_out"]["cut"] == sum(not row["stopped"] for row in answers.values()) > 0
    assert sum(found["answers_left_out"].values()) == 60 - sum(map(len, left.values()))
    assert all(found["answers_left_out"].values()), "negative control: this model makes every fault"
    sides = {text_of(row, side) for row in rows_of(folder) for side in ("chosen", "rejected")}
    assert sides <= {row["text"] for rows in left.values() for row in rows}
    dropped = {name: count for name, count in found["counts"].items() if name != "control strings removed"}
    assert sum(dropped.values()) + len(rows_of(folder)) == found["prompts"] == 20
    assert dropped["with fewer than two answers"] == sum(len(left.get(f"{n:06d}", [])) < 2 for n in range(20)) > 0


def test_the_summary_says_the_numbers_and_the_figures_have_intervals(first: Run) -> None:
    folder, found = first
    rows = rows_of(folder)
    better = cluster_bootstrap([row["score_chosen"] for row in rows], [row["id"] for row in rows])
    assert found["score_chosen"]["score"] == pytest.approx(better.mean, abs=1e-4)
    assert found["score_chosen"]["low"] == pytest.approx(better.low, abs=0.2) and better.low < better.mean
    words = [len(text_of(row, "chosen").split()) - len(text_of(row, "rejected").split()) for row in rows]
    assert found["length_words"]["score"] == pytest.approx(sum(words) / len(words), abs=1e-4)
    longer = [len(text_of(row, "chosen")) - len(text_of(row, "rejected")) for row in rows]
    assert found["chosen_longer"] == pytest.approx(sum((x > 0) + (x == 0) / 2 for x in longer) / len(rows), abs=1e-4)
    assert found["summary"].startswith(f"{len(rows)} pairs of 20 prompts, 4 held out; dropped: ")


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_pairs(
    first: Run, faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    paired(tmp_path / "again", faulty, prompt_rows)
    assert bytes_of(tmp_path / "again") == bytes_of(first[0])
    paired(tmp_path / "other", faulty, prompt_rows, seed=4)
    assert bytes_of(tmp_path / "other") != bytes_of(first[0])


def test_a_kill_between_blocks_asks_nothing_again_and_ends_with_the_same_bytes(
    first: Run, faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        paired(tmp_path, faulty, prompt_rows, stop_after=20)
    blocks = sorted((tmp_path / "out" / ".work" / "answers").iterdir())
    assert 2 <= len(blocks) < 6 and not (tmp_path / "out" / "train.jsonl").exists()
    before = [block.stat().st_mtime_ns for block in blocks]
    paired(tmp_path, faulty, prompt_rows)
    assert [block.stat().st_mtime_ns for block in blocks] == before
    assert bytes_of(tmp_path) == bytes_of(first[0])


def test_what_the_evaluation_asks_is_never_asked_here(faulty: Path, prompt_rows: Path, tmp_path: Path) -> None:
    rows = read_rows(prompt_rows / "train.jsonl")
    same, near = rows[3]["messages"][0]["content"], f"{rows[7]['messages'][0]['content']} Thank you!"
    write_rows(tmp_path / "eval.jsonl", [{"id": "a", "prompt": same.upper()}, {"id": "b", "prompt": near}])
    found = paired(tmp_path / "a", faulty, prompt_rows, hold_out=tmp_path / "eval.jsonl")
    asked = {key.split("/")[0] for key in written(tmp_path / "a")}
    assert asked == {row["id"] for row in rows} - {"000003", "000007"}
    assert found["counts"]["equal to a held-out prompt"] == found["counts"]["like a held-out prompt"] == 1
    assert paired(tmp_path / "b", faulty, prompt_rows, hold_out=PROMPTS)["prompts"] == 20  # negative control


def test_prompts_of_ones_own_are_cleaned_asked_once_and_come_from_all_over(faulty: Path, tmp_path: Path) -> None:
    mine: list[Row] = [{"prompt": f"Tell me about {n} things."} for n in range(30)]
    mine[4] = {"prompt": "Tell me <|us<|user|>er|>about 4 things."}
    mine[5] = {"messages": [{"role": "user", "content": "tell me about  4 THINGS."}]}
    mine[6] = {"prompt": "<|end|>"}
    mine[7] = {"prompt": "many words " * 200}
    write_rows(tmp_path / "p.jsonl", mine)
    found = paired(tmp_path / "a", faulty, tmp_path / "p.jsonl", rows=9, min_rows=1, test_size=2)
    counts = found["counts"]
    assert counts["control strings removed"] == 2 + 1 and counts["repeated"] == counts["of control strings alone"] == 1
    assert counts["longer than the model's context"] == 1 and found["prompts"] == 9
    asked = sorted({int(key.split("/")[0]) for key in written(tmp_path / "a")})
    left = [n for n in range(30) if n not in (5, 6, 7)]
    assert asked == left[::3]


def test_the_sides_of_a_conversation_stand_under_all_its_turns(faulty: Path, tmp_path: Path) -> None:
    def talk(n: int) -> Row:
        said = [("user", f"I like {n}."), ("assistant", "Why?"), ("user", "Guess!"), ("assistant", "No.")]
        return {"id": f"t{n}", "messages": [{"role": role, "content": text} for role, text in said]}

    prompts = rows_step(tmp_path / "p", rows=[talk(n) for n in range(12)])
    paired(tmp_path / "a", faulty, prompts)
    for row in rows_of(tmp_path / "a"):
        assert row["prompt"] == talk(int(row["id"][1:]))["messages"][:-1]


def test_copies_of_what_the_model_was_trained_on_score_less(
    faulty: Path, prompt_rows: Path, first: Run, tmp_path: Path
) -> None:
    from stage_context import context, run

    known = [text for texts in scored(first[0], prompt_rows).values() for text in texts]
    training = rows_step(
        tmp_path / "t", rows=[{"messages": [{"role": "assistant", "content": text}]} for text in known]
    )
    ctx = context(tmp_path / "a", model=given(faulty), prompts=given(prompt_rows), training=given(training))
    found = run("pairs", ctx, **{**FEW, "min_rows": 1, "test_size": 2})
    assert found["score_chosen"]["score"] < first[1]["score_chosen"]["score"]
    scores = scored(tmp_path / "a", prompt_rows, known)
    for row in rows_of(tmp_path / "a"):
        assert row["score_chosen"] == pytest.approx(scores[row["id"]][text_of(row, "chosen")], abs=1e-3)


def test_too_few_pairs_are_refused_with_the_numbers(
    first: Run, faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    left = len(rows_of(first[0]))
    said = rf"{left - 4} rows are left to train on, beside 4 held out, of 20 prompts \(\d+ with fewer than two answers"
    with pytest.raises(PosttrainError, match=said):
        paired(tmp_path / "a", faulty, prompt_rows, min_rows=left - 3)
    paired(tmp_path / "b", faulty, prompt_rows, min_rows=left - 4)  # negative control
    with pytest.raises(PosttrainError, match=r"0 rows are left .*\d+ ties"):
        paired(tmp_path / "c", faulty, prompt_rows, margin=9)


def test_pairs_that_length_tells_apart_are_refused_with_the_numbers(
    faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    from posttrain.stages.pair_report import check_sides
    from posttrain.stages.pair_rows import Made

    config = STAGES["pairs"].config.model_validate({"kind": "pairs", **FEW, "max_one_sided": 0.9})

    def made(longer: int, of: int = 40) -> Made:
        def side(words: int) -> list[dict[str, str]]:
            return [{"role": "assistant", "content": "word " * words}]

        rows = [{"chosen": side(3 if n < longer else 1), "rejected": side(2)} for n in range(of)]
        return Made(rows, [str(n) for n in range(of)], "prompts", of, {}, {})

    for fine in (4, 20, 36):
        check_sides(config, made(fine))
    for wrong, share in ((37, 92), (40, 100), (3, 8)):
        with pytest.raises(PosttrainError, match=rf"in {share}% of 40 pairs the chosen .* 10% to 90% is allowed"):
            check_sides(config, made(wrong))


def test_matched_lengths_are_matched_and_cost_pairs(
    first: Run, faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    def ratio(row: Row) -> float:
        short, long = sorted(len(text_of(row, side).split()) for side in ("chosen", "rejected"))
        return long / short

    found = paired(tmp_path, faulty, prompt_rows, match_lengths=2, min_rows=1, test_size=2)
    assert max(map(ratio, rows_of(tmp_path))) <= 2 < max(map(ratio, rows_of(first[0])))
    assert found["counts"]["of unlike lengths"] > 0 == first[1]["counts"]["of unlike lengths"]


def test_a_cut_answer_is_rejected_only_where_that_is_asked_for(faulty: Path, tmp_path: Path) -> None:
    """Where nothing but an end is asked for, the cut is the fault."""
    easy = rows_step(tmp_path / "p", rows=[{"id": f"{n}", "prompt": f"Say {n}."} for n in range(20)])
    plain: dict[str, Any] = {"by": "constraints", "judge": None, "min_rows": 1, "test_size": 2}
    plain["sampling"] = {"max_new_tokens": 8, "block_size": 60}
    found = paired(tmp_path / "a", faulty, easy, **plain)
    stopped = {row["text"]: row["stopped"] for row in written(tmp_path / "a").values()}
    for row in rows_of(tmp_path / "a"):
        assert stopped[text_of(row, "chosen")] and not stopped[text_of(row, "rejected")]
        assert (row["score_chosen"], row["score_rejected"], row["source"]) == (1.0, 0.0, "constraints")
    assert found["answers_left_out"]["cut"] == 0
    with pytest.raises(PosttrainError, match="0 rows are left to train on"):
        paired(tmp_path / "b", faulty, easy, **plain, reject_cut=False)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"model": None, "prompts": None}, "either 'model' and 'prompts' or 'source'"),
    "half": ({"prompts": None}, "either 'model' and 'prompts' or 'source'"),
    "both": ({"source": "s.jsonl"}, "either 'model' and 'prompts' or 'source'"),
    "no judge": ({"judge": None}, "by: scores asks a judge"),
    "a rule compares": ({"by": "pairwise"}, "the rule judge compares no answers"),
    "an idle judge": ({"by": "constraints"}, "'judge' is read by nothing with by: constraints"),
    "an idle axis": ({"by": "constraints", "judge": None, "axis": "plot"}, "'axis' is read by nothing"),
    "an idle threshold": ({"threshold": 7}, "'threshold' is read by nothing with format: paired"),
    "idle lengths": ({"format": "unpaired", "match_lengths": True}, "'match_lengths' is read by nothing"),
    "a ratio below 1": ({"match_lengths": 0.5}, "a ratio of the two lengths of 1 and more"),
    "greedy": ({"sampling": {"temperature": 0}}, "greater than 0"),
    "one answer": ({"samples": 1}, "greater than or equal to 2"),
    "no such axis": ({"axis": "beauty"}, r"steps\.x\.axis: 'beauty' is no axis of"),
    "a judge of nobody": ({"judge": {"judge": "panel"}}, r"steps\.x\.judge\.panel: found 0 models"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_before_any_compute(name: str) -> None:
    settings, said = WRONG[name]
    with pytest.raises((PosttrainError, ValueError), match=said):
        checked("pairs", **{**FEW, **settings})


def test_prompts_and_models_that_cannot_be_asked_are_refused_before_any_compute(faulty: Path, tmp_path: Path) -> None:
    (tmp_path / "mute").mkdir()
    with pytest.raises(PosttrainError, match=r"steps\.x\.model: .*mute has no chat template"):
        checked("pairs", **{**FEW, "model": str(tmp_path / "mute")})
    for row in ({"text": "a"}, {"prompt": " "}, {"messages": [{"role": "assistant", "content": "b"}]}):
        write_rows(tmp_path / "p.jsonl", [{"prompt": "a"}, row])
        with pytest.raises(PosttrainError, match=r"p\.jsonl, row 2: id '000001'"):
            checked("pairs", **{**FEW, "prompts": str(tmp_path / "p.jsonl")})
    checked("pairs", **{**FEW, "model": str(faulty), "prompts": str(PROMPTS)})


def test_the_rubric_of_a_step_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.md").write_text(RUBRIC.read_text() + "\n## beauty\n\nIs it beautiful?\n")
    with pytest.raises(PosttrainError, match="'beauty' is unknown to the rule judge"):
        checked("pairs", **{**FEW, "judge": {"judge": "rule", "rubric": tmp_path / "r.md"}})
