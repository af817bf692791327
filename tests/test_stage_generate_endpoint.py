"""generate with teachers behind endpoints: faults and kills change nothing, weights, the plan, a real llama.cpp."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killed_rows import SETTINGS, rows_of, story_for, told
from misbehaving_server import FAULTS, MEMORY, Call, Reply, Script, chat, good, serving, status
from stage_context import context, given, run

from data_gen.instructions import instruction_rows
from posttrain.chain.graph import build_graph
from posttrain.chain.identity import digest_of_json
from posttrain.chain.plan import plan_rows
from posttrain.chain.recipe import parse_recipe
from posttrain.chain.store import Store
from posttrain.engines.llamacpp_engine import serve
from posttrain.errors import PosttrainError
from posttrain.lm.gguf import write_gguf
from posttrain.stages import STAGES, remote_teaching

BUNDLED = Path(__file__).parents[1] / "models" / "storyteller-1m"
QUICK = [name for name in FAULTS if not any(word in name for word in ("stall", "byte/s", "wait"))]


def honest(call: Call) -> Reply:
    return Reply(body=json.dumps(chat(story_for(call.body))).encode())


def taught(folder: Path, url: str, **settings: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    endpoint = {"base_url": url, "served_as": "double", "deadline": 10, **settings.pop("endpoint", {})}
    return run("generate", context(folder), **{**SETTINGS, "endpoint": endpoint, **settings})


def faulty(share: float) -> Script:
    rng = random.Random(1)

    def script(call: Call) -> Reply:
        fault = FAULTS[rng.choice(QUICK)]
        if rng.random() >= share:
            return honest(call)
        reply = fault(call)
        return reply if reply.body != good(call).body else reply._replace(body=honest(call).body)

    return script


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of an endpoint without faults."""
    folder = tmp_path_factory.mktemp("whole")
    with serving(honest) as server:
        made = taught(folder, server.url)
    assert made["answers"] == SETTINGS["rows"] == made["remote_calls"] - 1, (
        "one call finds out what the endpoint can do"
    )
    assert made["rows"] + made["rows_held_out"] == SETTINGS["rows"]
    return folder


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.engines.openai_engine.FIRST_WAIT", 0.001)
    monkeypatch.setattr("posttrain.engines.openai_engine.LONGEST_WAIT", 0.002)


def test_a_data_set_has_the_same_bytes_with_three_faults_in_ten(whole: Path, tmp_path: Path) -> None:
    with serving(faulty(0.3)) as server:
        made = taught(tmp_path, server.url)
        assert len(server.prompts) > 1.2 * SETTINGS["rows"], "negative control: many calls went wrong"
    assert told(tmp_path) == told(whole) and remote_teaching.REFUSED not in made["counts"]


def test_an_answered_call_is_never_sent_again(whole: Path, tmp_path: Path) -> None:
    with serving(honest) as server:
        taught(tmp_path, server.url)
        sent = len(server.prompts)
        (tmp_path / "out" / "train.jsonl").unlink()
        taught(tmp_path, server.url)
        assert len(server.prompts) == sent
    assert told(tmp_path) == told(whole)


def test_rows_say_who_answered_what_and_for_how_much(tmp_path: Path) -> None:
    price = {"price": {"input": 1.0, "output": 2.0}}
    with serving(honest) as server:
        made = taught(tmp_path, server.url, endpoint=price)
    asked = {row["id"]: row["messages"][:1] for row in instruction_rows(SETTINGS["seed"], 0, SETTINGS["rows"])}
    for row in rows_of(tmp_path):
        assert row["provenance"] == {
            "generator": "instructions",
            "teacher": "openai:double",
            "prompt_sha256": digest_of_json(asked[row["id"]]),
            "seed": SETTINGS["seed"],
            "usd": (7 * 1.0 + 3 * 2.0) / 1e6,  # as the endpoint counts its tokens
        }
    assert made["cost_usd"] == pytest.approx(made["remote_calls"] * 13e-6)


def test_what_the_endpoint_refuses_for_good_is_counted_and_what_never_comes_stops_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(code: int) -> Script:
        return lambda call: status(code)(call) if story_for(call.body)[-3] in "aeiou" else honest(call)

    with serving(picky(422)) as server:
        made = taught(tmp_path / "refused", server.url)
    refused = made["counts"][remote_teaching.REFUSED]
    assert 0 < refused == SETTINGS["rows"] - made["rows"] - made["rows_held_out"]
    with serving(picky(500)) as server, pytest.raises(PosttrainError, match=rf"{refused} of 60 calls were never ans"):
        taught(tmp_path / "broken", server.url, endpoint={"retries": 0})
    with serving(honest) as server:
        taught(tmp_path / "broken", server.url, endpoint={"retries": 0})
        assert len(server.prompts) == refused, "what was answered is kept"


def test_an_answer_that_is_cut_or_speaks_as_a_template_is_no_row(tmp_path: Path) -> None:
    def script(call: Call) -> Reply:
        said = story_for(call.body)
        kind = len(said) % 3
        text = f"<|us<|end|>er|> {said}" if kind == 1 else said
        return Reply(body=json.dumps(chat(text, "length" if kind == 2 else "stop")).encode())

    with serving(script) as server:
        made = taught(tmp_path, server.url)
    counts = made["counts"]
    assert counts["cut"] and counts["with a control string"]
    assert counts["cut"] + counts["with a control string"] + len(rows_of(tmp_path)) == SETTINGS["rows"]
    assert not any("<|" in text.decode() for text in told(tmp_path))


def test_several_teachers_share_the_rows_by_their_weights(tiny_chat_model: Path, tmp_path: Path) -> None:
    with serving(honest) as server:
        endpoint = {"base_url": server.url, "served_as": "double"}
        listed = [
            {"model": "openai:much", "weight": 4, "endpoint": endpoint},
            {"model": "openai:little", "weight": 1, "endpoint": endpoint},
            {"model": "local", "weight": 1},
        ]
        settings = {key: value for key, value in SETTINGS.items() if key != "teacher"}
        sampling = {"max_new_tokens": 8}
        ctx = context(tmp_path, **{"teacher.2": given(tiny_chat_model)})
        made = run("generate", ctx, **{**settings, "rows": 240, "teacher": listed, "sampling": sampling})
        models = [call.body["model"] for call in server.calls]
    assert 130 < models.count("much") < 190 and 20 < models.count("little") < 60
    assert models.count("much") + models.count("little") < 240 == made["answers"]
    by = {row["provenance"]["teacher"] for row in rows_of(tmp_path)}
    assert {"openai:much", "openai:little"} <= by


def test_the_plan_shows_calls_tokens_and_cost_before_any_is_made(tmp_path: Path) -> None:
    with serving(honest) as server:
        endpoint = {"base_url": server.url, "price": {"input": 1.0, "output": 2.0}, "max_tokens": 100}
        steps = {"rows": {"kind": "generate", "rows": 50, "teacher": "openai:double", "endpoint": endpoint}}
        recipe = parse_recipe({"name": "r", "steps": steps}, "r.yaml", STAGES)
        (row,) = plan_rows(build_graph(recipe, STAGES, None, str), recipe.gates, Store(tmp_path / "store"))
        assert not server.calls
    assert row["remote"]["calls"] == 50 and row["remote"]["answered"] == 0 and row["remote"]["rows"] == 50
    assert row["remote"]["tokens"] > 50 * 100 and row["remote"]["usd"] > 50 * 100 * 2e-6


def test_a_budget_stops_before_the_call_that_would_pass_it_and_nothing_is_lost(whole: Path, tmp_path: Path) -> None:
    with serving(honest) as server:
        with pytest.raises(PosttrainError, match=r"budget\.requests of r: 20 calls spent of 20"):
            taught(tmp_path, server.url, budget={"requests": 20})
        assert len(server.calls) == 20
        taught(tmp_path, server.url, budget={"requests": 100})
        assert len(server.calls) == SETTINGS["rows"] + 1
    assert told(tmp_path) == told(whole)


@pytest.mark.slow
def test_kills_lose_no_row_double_none_and_repeat_no_answered_call(whole: Path) -> None:
    """In a process of its own: 50 kills of a step that is asking."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        script = Path(__file__).with_name("killed_rows.py")
        for kind, caught in (("", False), ("blind", True)):
            place = Path(folder) / (kind or "honest")
            place.mkdir()
            kills = "50" if not caught else "8"
            done = subprocess.run([sys.executable, script, place, "5", kills, kind], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert found["kills"] == int(kills) and bool(found["repeated"]) is caught, found
            assert told(place) == told(whole)


@pytest.mark.slow
def test_a_real_server_of_a_model_of_ours_teaches(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_gguf(BUNDLED, file, "q8_0", "m")
    with serve(file, context=512, threads=1) as running:
        endpoint = {"served_as": "m", "max_tokens": 300, "concurrency": 1, "seed": 1}
        more = {"rows": 20, "test_size": 4, "endpoint": endpoint}
        made = taught(tmp_path / "a", f"{running.base_url}/v1", **more)
        assert made["answers"] == 20 and made["rows"] + made["rows_held_out"] >= 8
        assert made["teacher_tokens"] > 20 * 20 and made["cost_usd"] == 0.0
        again = taught(tmp_path / "a", f"{running.base_url}/v1", **more)
    assert again["remote_calls"] == made["remote_calls"], "the second time nothing was sent"
    assert all(row["provenance"]["teacher"] == "openai:double" for row in rows_of(tmp_path / "a"))


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (
            [{"model": "a", "wieght": 1}],
            r"teacher\.0\.wieght: unknown key 'wieght'; allowed: endpoint, model, weight\. Did",
        ),
        ([{"model": "a", "weight": 0}], r"teacher\.0\.weight: found 0; input should be greater than 0"),
        (
            [{"model": "openai:a", "endpoint": {"base_ul": "x"}}],
            r"teacher\.0\.endpoint\.base_ul: .*Did you mean 'base_url'",
        ),
        (3, r"steps\.rows\.teacher: found 3; input should be a valid string"),
    ],
)
def test_a_wrong_teacher_is_named_with_its_place_in_the_list(teacher: Any, said: str) -> None:
    steps = {"rows": {"kind": "generate", "teacher": teacher}}
    with pytest.raises(PosttrainError, match=said):
        parse_recipe({"name": "r", "steps": steps}, "r.yaml", STAGES)
