"""Judges against human labels by the command: PandaLM's published row, sound JSON, and errors before any work."""

import json
from pathlib import Path
from typing import Any

import pytest
from judge_data import REAL
from label_fakes import NOISE, TALE, by_name, calibrate_cli, pair_rows, write

from posttrain.chain.console import RichScreen
from posttrain.errors import PosttrainError
from posttrain.labelling import judges
from posttrain.labelling.calibrating import asked, calibrate
from posttrain.labelling.endpoint_judge import Remote

cli = calibrate_cli
NOBODY = Remote(Path("absent"), Path("absent"), progress=RichScreen().progress)


def test_pandalms_published_row_comes_out_of_the_command(cli: Any) -> None:
    if not REAL.is_dir():
        pytest.skip("needs the judge data beside the project")
    small, gpt = (f"recorded:{REAL / name}" for name in ("pandalm-7b.json", "pandalm-gpt-3.5-turbo.json"))
    code, out, err = cli("--judge", small, "--judge", gpt, "--labels", REAL / "pandalm-human.json", "--json")
    assert code == 0 and err == ""
    found = by_name(out)
    row = found["recorded:pandalm-7b.json"]
    figures = [round(100 * row[name]["mean"], 2) for name in ("accuracy", "precision", "recall", "f1")]
    assert figures == [66.77, 57.38, 57.50, 57.43]
    assert found["recorded:pandalm-gpt-3.5-turbo.json"]["scored"] == 974
    assert list(found)[-1] == "longest" and row["longest_accuracy"] == found["longest"]["accuracy"]["mean"]
    assert json.loads(out)["labels"]["prompts"] == 170


def test_llmbars_file_is_read_as_it_is(cli: Any) -> None:
    if not REAL.is_dir():
        pytest.skip("needs the judge data beside the project")
    code, out, _ = cli("--judge", "longest", "--labels", REAL / "llmbar-natural.json")
    assert code == 0 and "100 pairs on" in out and "| longest | 100 of 100 |" in out


def test_a_judge_that_reads_is_above_the_one_that_measures(tmp_path: Path, cli: Any) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows())
    said = write(tmp_path / "said.jsonl", [{"id": str(n), "winner": "b", "swapped": "a"} for n in range(12)])
    code, out, err = cli("--judge", "rule", "--judge", f"recorded:{said}", "--labels", path, "--json")
    assert code == 0 and err == ""
    found = by_name(out)
    assert found["rule"]["accuracy"]["mean"] == 1 and found["longest"]["accuracy"]["mean"] == 0
    assert found["rule"]["over_longest"]["mean"] == 1 and found["rule"]["flip_rate"]["mean"] == 0
    assert found["rule"]["verdicts_per_second"] > 0 and found["rule"]["usd"] == 0
    assert found["recorded:said.jsonl"]["flip_rate"]["mean"] == 1
    assert found["recorded:said.jsonl"]["usd"] is None and found["recorded:said.jsonl"]["verdicts_per_second"] is None
    assert any("a proxy for short English children's stories" in note for note in json.loads(out)["notes"])
    code, out, _ = cli("--judge", "longest", "--labels", path)
    assert code == 0 and out.startswith("12 pairs on 12 prompts in ") and "proxy" not in out


def test_the_rule_judge_is_asked_what_the_prompt_asked(tmp_path: Path) -> None:
    plain = {"prompt": "Tell.", "a": TALE, "b": TALE.replace("red", "blue"), "votes": ["a"]}
    asks: list[Any] = [None, ["red"], ["blue"], "red", [1], []]
    rows = [{"id": str(n), **plain, "words": words} for n, words in enumerate(asks)]
    path = write(tmp_path / "labels.jsonl", rows)
    text, labels = path.read_text(), calibrate(["longest"], path, NOBODY).labels
    (judge,) = judges.known_judges(["rule"], labels, asked(text, labels), NOBODY)
    picks = [verdict.straight.winner for verdict in judge.judge().verdicts]  # type: ignore[union-attr]
    assert picks == [0, 1, 2, 0, 0, 0]  # what is of another type was not asked


def test_scores_are_calibrated_too(tmp_path: Path, cli: Any) -> None:
    texts = [(TALE, 9), (NOISE, 1), (TALE + " " + TALE, 6), (NOISE * 30, 2)]
    rows = [{"id": str(n), "prompt": f"T{n}", "text": text, "score": score} for n, (text, score) in enumerate(texts)]
    path = write(tmp_path / "labels.jsonl", rows)
    code, out, _ = cli("--judge", "rule", "--labels", path, "--json")
    assert code == 0 and json.loads(out)["labels"]["kind"] == "scores"
    assert by_name(out)["rule"]["spearman"] > by_name(out)["longest"]["spearman"]
    code, out, _ = cli("--judge", "rule", "--judge", "longest", "--labels", path)
    assert code == 0 and "4 answers on 4 prompts" in out


def test_one_name_for_two_files_is_the_whole_path(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows(2))
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "v.jsonl", [{"id": "0", "winner": "a"}])
    specs = [f"recorded:{tmp_path / name / 'v.jsonl'}" for name in ("x", "y")]
    assert {row.judge for row in calibrate(specs, path, NOBODY).rows} == {*specs, "longest"}
    assert {row.judge for row in calibrate(specs[:1], path, NOBODY).rows} == {"recorded:v.jsonl", "longest"}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("rules", "found 'rules'; rule, longest, recorded:FILE or openai:MODEL"),
        ("recorded:", "found 'recorded:'"),
        ("recorded:absent.json", "absent.json: No such file"),
        ("recorded:{folder}/other.jsonl", "not labelled, first '99'"),
        ("recorded:{folder}/scores.jsonl", "verdicts on scores, and the labels are pairs"),
        ("recorded:{folder}/labels.jsonl", "'id' with 'winner' or 'score' is needed"),
    ],
)
def test_what_is_wrong_is_said_before_any_judge_works(
    tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch, spec: str, why: str
) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows(2))
    write(tmp_path / "other.jsonl", [{"id": "99", "winner": "a"}])
    write(tmp_path / "scores.jsonl", [{"id": "0", "score": 3}])
    worked: list[str] = []
    monkeypatch.setattr(judges, "rule_judge", lambda *_: worked.append("rule"))
    code, out, err = cli("--judge", "rule", "--judge", spec.format(folder=tmp_path), "--labels", path)
    assert code == 2 and out == "" and why in err and err.startswith("posttrain: ") and err.count("\n") == 1
    assert worked == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "holds no rows"),
        (b"{", "not JSON"),
        (b'{"id": "1", "prompt": "p", "a": "x", "b": "y", "votes": ["c"]}', "a vote 'c'"),
    ],
)
def test_a_label_file_that_is_none_is_said_plainly(tmp_path: Path, cli: Any, content: bytes | None, why: str) -> None:
    path = tmp_path / "labels.jsonl"
    if content is not None:
        path.write_bytes(content)
    code, out, err = cli("--judge", "longest", "--labels", path)
    assert code == 2 and out == "" and why in err and str(path) in err and err.count("\n") == 1


def test_a_judge_is_named_once(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows(2))
    with pytest.raises(PosttrainError, match="names one judge twice"):
        calibrate(["rule", "rule"], path, NOBODY)


def test_in_a_terminal_a_judge_is_a_column(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "labels.jsonl", pair_rows(4))
    assert "| judge | scored |" in cli("--judge", "rule", "--labels", path)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = cli("--judge", "rule", "--labels", path)
    assert code == 0 and "| judge |" not in out and "flips on swap" in out and "┃" in out
