"""generate: what is filtered out, what is never sent, and what of the evaluation is kept out; each reason counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from killed_rows import SETTINGS, rows_of, story_for
from misbehaving_server import Call, Reply, chat, serving
from stage_context import PROMPTS, RUBRIC, context, given, run

from data_gen.instructions import instruction_rows
from posttrain.chain.recipe import parse_recipe
from posttrain.errors import PosttrainError
from posttrain.rows import write_rows
from posttrain.stages import STAGES

FEW = {"rows": 40, "test_size": 4, "seed": 3}


def test_a_row_goes_with_the_first_filter_that_it_does_not_pass(tmp_path: Path) -> None:
    def script(call: Call) -> Reply:
        said = story_for(call.body)
        kind = sum(said.encode()) % 4
        text = [said, "Too short.", f"{said} Write to ann@gmail.com.", f"{said} " * 4][kind]
        return Reply(body=json.dumps(chat(text)).encode())

    with serving(script) as server:
        endpoint = {"base_url": server.url}
        settings = {**SETTINGS, "filters": {"min_words": 20, "max_words": 300}}
        made = run("generate", context(tmp_path), endpoint=endpoint, **settings)
    counts, left = made["counts"], [row["messages"][1]["content"] for row in rows_of(tmp_path)]
    assert all(counts[name] for name in ("too short", "too long", "with personal data (email)"))
    assert sum(counts[name] for name in ("too short", "too long", "with personal data (email)")) + len(left) == 60
    assert not any("@" in text for text in left) and all(20 <= len(text.split()) <= 300 for text in left)
    with serving(script) as server:
        (tmp_path / "kept").mkdir()
        settings = {**SETTINGS, "filters": {"pii": "keep"}, "endpoint": {"base_url": server.url}}
        made = run("generate", context(tmp_path / "kept"), **settings)
    assert any("@" in row["messages"][1]["content"] for row in rows_of(tmp_path / "kept")), "negative control"
    assert "too short" not in made["counts"]


def test_another_language_is_dropped(tmp_path: Path) -> None:
    french = "Il était une fois un petit chat qui aimait beaucoup la mer, les bateaux et le soleil."

    def script(call: Call) -> Reply:
        said = story_for(call.body)
        return Reply(body=json.dumps(chat(f"{french} {len(said)}" if len(said) % 3 == 0 else said)).encode())

    with serving(script) as server:
        settings = {**SETTINGS, "filters": {"language": "en"}, "endpoint": {"base_url": server.url}}
        made = run("generate", context(tmp_path), **settings)
    assert made["counts"]["language fr"] > 5
    assert not any(french in row["messages"][1]["content"] for row in rows_of(tmp_path))


def test_personal_data_of_a_source_never_leaves_the_machine(tmp_path: Path) -> None:
    people = [f"A baker of age {20 + n} who sings to the dough and writes letters." for n in range(30)]
    people[7] += " Her card is 4111 1111 1111 1111."
    write_rows(tmp_path / "p.jsonl", [{"id": str(n), "persona": text} for n, text in enumerate(people)])

    def diary(call: Call) -> Reply:
        return Reply(body=json.dumps(chat(f"Dear diary, today I baked. {story_for(call.body)}")).encode())

    for name, what in (("dropped", "drop"), ("sent", "keep")):
        with serving(diary) as server:
            (tmp_path / name).mkdir()
            settings = {"rows": 30, "test_size": 2, "teacher": "openai:double", "endpoint": {"base_url": server.url}}
            ctx = context(tmp_path / name, source=given(tmp_path / "p.jsonl"))
            run("generate", ctx, generator="diaries", source="p.jsonl", filters={"pii": what}, **settings)
            sent = any("4111" in json.dumps(call.body) for call in server.calls)
        assert sent is (what == "keep")


def test_a_judge_drops_what_it_scores_low(tmp_path: Path) -> None:
    judge = {"rubric": str(RUBRIC)}
    run("generate", context(tmp_path / "all"), **FEW)
    settings = {**FEW, "judge": judge, "filters": {"min_score": 9.0}}
    made = run("generate", context(tmp_path / "best"), **settings)
    low = made["counts"]["low score"]
    assert 0 < low == len(rows_of(tmp_path / "all")) - len(rows_of(tmp_path / "best"))


def test_rows_that_hold_much_of_any_prompt_set_are_dropped_counted_and_shown(tmp_path: Path) -> None:
    rows = instruction_rows(3, 0, 40)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    story = rows[5]["messages"][1]["content"]
    write_rows(one, [{"id": "a", "prompt": "Tell me anything at all.", "reference": story + " And so it was."}])
    write_rows(two, [{"id": "b", "prompt": f"Go on: {rows[9]['messages'][1]['content'][:300]}"}])
    made = run("generate", context(tmp_path / "x"), **FEW, decontaminate=[str(one), str(two)])
    assert made["counts"]["with much of an evaluation's text"] == 2
    found = {overlap["set"].rpartition("/")[2]: overlap for overlap in made["overlaps"]}
    assert [found[path.name]["examples"][0]["row"] for path in (one, two)] == [rows[5]["id"], rows[9]["id"]]
    assert not {rows[5]["id"], rows[9]["id"]} & {row["id"] for row in rows_of(tmp_path / "x")}


def test_a_recipe_names_the_prompt_sets_itself(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    write_rows(other, [{"id": "a", "prompt": "Tell me anything at all."}])
    steps: dict[str, Any] = {
        "rows": {"kind": "generate"},
        "files": {"kind": "export", "model": "models/storyteller-1m", "measured_on": str(other)},
    }
    recipe = parse_recipe({"name": "r", "steps": steps, "judge": {"prompts": str(PROMPTS)}}, "r.yaml", STAGES)
    config: Any = recipe.steps["rows"]
    assert {path.name for path in config.decontaminate} == {PROMPTS.name, other.name}
    assert config.judge is None, "a judge that scores no row is no part of the step"
    steps["rows"] = {"kind": "generate", "filters": {"min_score": 8}}
    recipe = parse_recipe({"name": "r", "steps": steps, "judge": {"prompts": str(PROMPTS)}}, "r.yaml", STAGES)
    assert recipe.steps["rows"].judge is not None  # type: ignore[attr-defined]
    with pytest.raises(PosttrainError, match=r"filters\.min_score and 'judge' go together"):
        parse_recipe({"name": "r", "steps": {"rows": steps["rows"]}}, "r.yaml", STAGES)
