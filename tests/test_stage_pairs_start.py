"""Answers that share a beginning: cut at a word, written on by the model, compared after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pairs_stage import bytes_of, paired, rows_of, text_of

from data_gen.pairing import NEAR, Candidate, Pair, Rules, best_against_worst
from posttrain.rows import Row, read_rows
from posttrain.stages.candidates import start_of


@pytest.fixture(scope="module")
def first(faulty: Path, prompt_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    paired(folder, faulty, prompt_rows, shared_start=True)
    return folder


def answers(folder: Path, name: str) -> dict[str, Row]:
    blocks = sorted((folder / "out" / ".work" / name).glob("*.jsonl"))
    return {row["id"]: row for block in blocks for row in read_rows(block)}


def begin_alike(texts: Mapping[str, Sequence[str]], starts: Mapping[str, str]) -> bool:
    return all(text.startswith(starts[name]) for name, several in texts.items() for text in several)


def test_the_first_answer_is_its_own_and_the_others_go_on_from_a_start_of_it(first: Path) -> None:
    alone, continued = answers(first, "answers"), answers(first, "continued")
    assert {key.split("/")[1] for key in alone} == {"0"} and {key.split("/")[1] for key in continued} == {"1", "2"}
    starts = {key[:-2]: start_of(row["text"], key[:-2], 3, {"<|end|>", "<|user|>"}) for key, row in alone.items()}
    texts = {name: [continued[f"{name}/1"]["text"], continued[f"{name}/2"]["text"]] for name in starts}
    assert sum(map(bool, starts.values())) > len(starts) / 4
    assert begin_alike(texts, starts)
    names = sorted(starts)
    assert not begin_alike(texts, dict(zip(names, [starts[name] for name in names[1:] + names[:1]], strict=True)))
    for row in rows_of(first):
        assert text_of(row, "chosen") != text_of(row, "rejected")


def test_the_same_seed_gives_the_same_bytes_and_a_killed_run_too(
    first: Path, faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    for blocks in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            paired(tmp_path / str(blocks), faulty, prompt_rows, stop_after=blocks, shared_start=True)
        paired(tmp_path / str(blocks), faulty, prompt_rows, shared_start=True)
        assert bytes_of(tmp_path / str(blocks)) == bytes_of(first)
    paired(tmp_path / "alone", faulty, prompt_rows)
    assert bytes_of(tmp_path / "alone") != bytes_of(first)


def test_a_start_ends_before_a_word_and_leaves_no_control_string() -> None:
    text = "One day  a cat\n\nsat on the mat."
    found = {start_of(text, str(name), 0, {"<|end|>"}) for name in range(300)}
    assert found == {"", "One", "One day", "One day  a", "One day  a cat\n\nsat", "One day  a cat\n\nsat on",
                     "One day  a cat\n\nsat on the"}  # fmt: skip
    assert {start_of("a cat <|end|> sat", str(name), 0, {"<|end|>"}) for name in range(50)} == {""}


def test_near_duplicates_are_looked_for_after_the_start() -> None:
    start = "One day a big red hen went to the old red barn by the sea and sat down near the "
    ends = ("wise owl, who told her a long story about the moon.", "pond, where she slept until the sun came up.")
    shared = [Candidate(start + end, score, True, len(start)) for end, score in zip(ends, (9.0, 5.0), strict=True)]
    assert best_against_worst(shared, Rules(near_duplicates=0.3)) == Pair(0, 1)
    assert best_against_worst([one._replace(start=0) for one in shared], Rules(near_duplicates=0.3)) == NEAR
