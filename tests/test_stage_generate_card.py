"""generate: the directory it writes is a data set that the datasets library reads, with a card that adds up."""

import json
import re
from pathlib import Path

import pytest
from killed_rows import SETTINGS, rows_of, story_for
from misbehaving_server import Call, Reply, chat, serving
from stage_context import PROMPTS, context, run


@pytest.mark.parametrize("parquet", [False, True])
def test_the_datasets_library_reads_the_directory_as_it_is(parquet: bool, tmp_path: Path) -> None:
    from datasets import load_dataset

    run("generate", context(tmp_path), rows=40, test_size=4, seed=3, parquet=parquet)
    found = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in found.items()} == {"train": 36, "test": 4}
    assert [row for name in ("train", "test") for row in found[name]] == rows_of(tmp_path)
    assert (tmp_path / "out" / "train.parquet").is_file() is parquet


def test_the_card_counts_every_row_and_tells_who_wrote_for_how_much(tmp_path: Path) -> None:
    def script(call: Call) -> Reply:
        said = story_for(call.body)
        return Reply(body=json.dumps(chat(said, "length" if len(said) % 3 == 0 else "stop")).encode())

    with serving(script) as server:
        endpoint = {"base_url": server.url, "served_as": "d", "price": {"input": 1.0, "output": 2.0}}
        how = {**SETTINGS, "endpoint": endpoint, "hold_out": PROMPTS, "decontaminate": [str(PROMPTS)]}
        first = run("generate", context(tmp_path), **how)
        text = (tmp_path / "out" / "README.md").read_text()
        (tmp_path / "again").mkdir()
        (tmp_path / "journal.sqlite").rename(tmp_path / "again" / "journal.sqlite")
        second = run("generate", context(tmp_path / "again"), **how)
    assert first["remote_calls"] == 61 and second["remote_calls"] == 0
    assert (tmp_path / "again" / "out" / "README.md").read_text() == text, "the card tells of the rows, not of the run"
    counts = {
        name: int(count.replace(",", "")) for name, count in re.findall(r"^\| (.+) \| (-?[\d,]+) \|$", text, re.M)
    }
    assert counts["made"] == 60 and counts["dropped: cut"] == -first["counts"]["cut"] < 0
    assert counts["kept"] == first["rows"] + first["rows_held_out"] == len(rows_of(tmp_path))
    assert "openai:double" in text and "60 remote calls, 600 tokens, 0.0008 USD" in text
    assert "tinystories.jsonl" in text and str(tmp_path) not in text
