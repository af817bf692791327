"""An endpoint as a judge of labelled rows, over a real server on loopback: both orders, no call twice, plain errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from label_fakes import NOISE, TALE, by_name, calibrate_cli, pair_rows, write
from misbehaving_server import Call, Reply, Server, chat, serving
from scripted_judges import FENCE

from posttrain.engines.probe import EXPECTED

cli = calibrate_cli


def model(says: Callable[[dict[str, str]], str], obeys: bool = True) -> Callable[[Call], Reply]:
    """A model that judges what stands in the fences, and passes the probe for schemas or does not."""

    def script(call: Call) -> Reply:
        parts = {label: json.loads(text) for label, _, text in FENCE.findall(call.prompt)}
        probed = json.dumps(EXPECTED) if obeys else "Hello there!"
        text = says(parts) if parts else probed
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return Reply(
            body=json.dumps({**chat(text), "usage": usage}).encode(), headers={"content-type": "application/json"}
        )

    return script


def reader(parts: dict[str, str]) -> str:
    return json.dumps({"reason": "it is a tale", "verdict": "A" if parts["ANSWER A"] == TALE else "B"})


def first(parts: dict[str, str]) -> str:
    return json.dumps({"reason": "it comes first", "verdict": "A"})


def mute(parts: dict[str, str]) -> str:
    return "I would rather not say."


def arguments(server: Server, path: Path, tmp_path: Path) -> list[str]:
    where = ["--base-url", server.url, "--store", str(tmp_path / "runs/store")]
    return ["--judge", "openai:m", "--labels", str(path), *where, "--json"]


def test_a_model_that_reads_agrees_and_a_second_run_asks_nothing(tmp_path: Path, cli: Any) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows())
    with serving(model(reader)) as server:
        code, out, _ = cli(*arguments(server, path, tmp_path))
        assert code == 0 and len(server.calls) == 1 + 2 * 12
        row = by_name(out)["openai:m"]
        assert row["accuracy"]["mean"] == 1 and row["flip_rate"]["mean"] == 0 and row["both_orders"] == 12
        assert row["verdicts_per_second"] > 0 and row["usd"] == 0  # this machine sends no bill
        assert any("assistant.md" in note and "enforces json_schema" in note for note in json.loads(out)["notes"])
        again = cli(*arguments(server, path, tmp_path))[1]
        assert len(server.calls) == 1 + 2 * 12
    assert by_name(again)["openai:m"] == row | {"verdicts_per_second": None}
    assert any("24 of 24 answers were in the journal" in note for note in json.loads(again)["notes"])
    assert (tmp_path / "runs/journal.sqlite").is_file()


def test_a_model_that_takes_the_first_is_found_out(tmp_path: Path, cli: Any) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows())
    with serving(model(first, obeys=False)) as server:
        _, out, _ = cli(*arguments(server, path, tmp_path))
        assert [call for call in server.calls[1:] if "response_format" in call.body] == []
    row = by_name(out)["openai:m"]
    assert row["flip_rate"]["mean"] == 1 and row["position_bias"]["mean"] == 0.5 and row["accuracy"]["mean"] == 0
    assert any("ignores json_schema" in note for note in json.loads(out)["notes"])


def test_replies_that_are_no_verdict_are_unscored(tmp_path: Path, cli: Any) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows(3))
    with serving(model(mute)) as server:
        code, out, _ = cli(*arguments(server, path, tmp_path))
    row = by_name(out)["openai:m"]
    assert code == 0 and row["scored"] == 0 and row["accuracy"] is None and row["accuracy_at_worst"]["mean"] == 0


def test_single_answers_are_graded_on_the_rubric(tmp_path: Path, cli: Any) -> None:
    rubric = tmp_path / "own.md"
    rubric.write_text("# Mine\n\nJudge.\n\n## sense\n\nDoes it make sense?\n\n## joy\n\nIs it fun?\n")
    texts = [(TALE, 9), (NOISE, 1), (TALE + " The end.", 8)]
    rows = [{"id": str(n), "prompt": f"T{n}", "text": text, "score": score} for n, (text, score) in enumerate(texts)]
    path = write(tmp_path / "labels.jsonl", rows)

    def grades(parts: dict[str, str]) -> str:
        good = "fox" in parts["ANSWER"]
        return json.dumps(
            {
                axis: {"reason": "so it seems", "score": 8 + joy if good else 2}
                for axis, joy in (("sense", 0), ("joy", 1))
            }
        )

    with serving(model(grades)) as server:
        code, out, err = cli(*arguments(server, path, tmp_path), "--rubric", str(rubric))
        assert code == 0, err
        assert server.calls[-1].body["top_logprobs"] > 0
    row = by_name(out)["openai:m"]
    assert row["scored"] == 3 and row["error"]["mean"] == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_what_is_wrong_with_an_endpoint_is_said_before_it_is_asked(
    tmp_path: Path,
    cli: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows(2))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    with serving(model(reader)) as server:
        for more, why in (
            (["--api-key-env", "MY_KEY"], "MY_KEY is not set"),
            (["--rubric", "absent.md"], "absent.md: No such file"),
            (["--rubric", str(path)], "no '# title' first"),
            (["--judge", "recorded:absent"], "absent: No such file"),
            (["--base-url", "ftp://x"], "an address that cannot be used"),
        ):
            code, out, err = cli(*arguments(server, path, tmp_path), *more)
            assert code == 2 and out == "" and why in err and err.count("\n") == 1
        assert server.calls == []
        assert cli(*arguments(server, path, tmp_path))[0] == 0 and server.calls  # negative control
    code, _, err = cli("--judge", "openai:gpt-4o-mini", "--labels", path)
    assert code == 2 and "OPENAI_API_KEY is not set" in err
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    code, _, err = cli("--judge", "openai:some-model", "--labels", path, "--budget-usd", "1")
    assert code == 2 and "no price is known for some-model" in err
