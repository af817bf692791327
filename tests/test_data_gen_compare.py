"""The comparison of story collections: figures that can be checked by hand."""

import json
from pathlib import Path

import pytest

from data_gen import compare


def test_distinct_is_the_share_of_different_runs() -> None:
    words = "a b a b c".split()
    assert compare.distinct(words, 1) == 3 / 5
    assert compare.distinct(words, 2) == 3 / 4  # ab ba ab bc
    assert compare.distinct(words, 9) == 0


def test_repeated_stories_are_near_duplicates_and_poorer_in_words() -> None:
    texts = [f'Tom had a {thing}. He said, "I like it!" He took the {thing} home.' for thing in ("kite", "drum")]
    varied, repeated = compare.figures(texts), compare.figures([texts[0]] * 2)
    near = f"near-duplicates (Jaccard > {compare.ALIKE})"
    assert (varied[near], repeated[near]) == ("0.0%", "50.0%")
    assert int(varied["vocabulary, all"]) == int(repeated["vocabulary, all"]) + 1
    assert varied["share with dialogue"] == "100%"
    assert varied["words a sentence"] == "4.7"  # 14 words in 3 sentences


def test_the_command_prints_one_column_a_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"text": f"A short story about {n} cats. The end."}) + "\n" for n in range(5)))
    monkeypatch.setattr("sys.argv", ["compare", str(path)])
    compare.main()
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| | story world | hand-written | mine.jsonl |"
    assert rows[0] == "| stories | 5 | 66 | 5 |"
