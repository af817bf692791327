"""The judge stage with a language model behind an endpoint: graded, compared, tested by canaries, never asked twice."""

from pathlib import Path
from typing import Any

from judging_server import honest, judging
from misbehaving_server import Server, serving
from stage_context import PROMPTS, RUBRIC, context, given, run

from posttrain.chain.stage import Input
from posttrain.rows import read_rows, write_rows

WORLD = read_rows(PROMPTS)
CANARIES = 40 * 6 - 40 - 40 + 40  # gold and its twin are one call, an empty answer is none; five kinds and gold
READER = judging(honest(WORLD))


def completions(folder: Path, shift: int, count: int = 8) -> Input:
    """Each prompt's own reference, or, shifted, another one's."""
    folder.mkdir(parents=True)
    texts = [row["reference"] for row in WORLD[:count]]
    made = [
        {"id": row["id"], "sample": 0, "prompt": row["prompt"], "text": text, "stopped": True, "tokens": 1}
        for row, text in zip(WORLD, [*texts[shift:], *texts[:shift]], strict=False)
    ]
    write_rows(folder / "completions.jsonl", made)
    return given(folder)


def judged(folder: Path, server: Server, shift: int, inputs: dict[str, Input] | None = None, **more: Any) -> Any:
    folder.mkdir(exist_ok=True)
    samples = completions(folder / f"samples-{len(list(folder.iterdir()))}", shift)
    endpoint = {"base_url": server.url, "retries": 8, "concurrency": 16, "deadline": 5}
    settings = {"judge": "openai:m", "endpoint": endpoint, "rubric": RUBRIC, "prompts": PROMPTS, **more}
    ctx = context(folder, judged=samples, **(inputs or {}))
    return samples, run("judge", ctx, judged="s", **settings)


def test_a_model_that_reads_grades_compares_and_passes_its_canaries(tmp_path: Path) -> None:
    with serving(READER) as server:
        old, first = judged(tmp_path / "a", server, shift=1)
        assert first["verdict"] == "BASELINE" and first["judge"] == "openai:m"
        assert all(check["ok"] for check in first["canaries"])
        calls = len(server.calls)
        assert calls == 1 + 8 + 5 * 40 - 20  # the probe, the answers, the canaries; one null answer is the same call
        before = {"before": old, "previous": given(tmp_path / "a/out", **first)}
        _, second = judged(tmp_path / "b", server, 0, before)
        assert len(server.calls) == calls + 8 + 2 * 8  # canaries are known already
    assert second["verdict"] == "PASS" and second["changes"]["instruct"]["low"] > 0
    assert second["pairwise"]["win_rate"]["score"] == 1.0 and second["pairwise"]["flip_rate"] == 0.0
    assert second["choices"] == {"age_group": dict.fromkeys(second["choices"]["age_group"], 0.0) | {"4 to 5": 1.0}}
    assert "age_group" not in second["axes"]
    assert second["remote_calls"] == 24 and second["cost_usd"] == 0
    assert "enforces json_schema" in second["judge_notes"][0]
    assert {row["win"]["score"] for row in read_rows(tmp_path / "b/out/pairs.jsonl")} == {1.0}
