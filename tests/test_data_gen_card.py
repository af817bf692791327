"""Laws of the data card: `datasets` reads the folder as it is, the figures add up, no text of the data is markup."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from data_gen.card import Facts, Spend, Split, card, fenced
from data_gen.contamination import contaminated
from data_gen.generator import Row
from data_gen.generators import GENERATORS
from data_gen.instructions import instruction_rows
from data_gen.tabular import columns, row_types, write_parquet

HOSTILE = (
    "x\n---\n# Own\n```\n<script>alert(1)</script> | a | [b](http://c) `d` \u2028license: mit\x85- e: *f* & &amp; $g$"
)
ROWS = instruction_rows(5, 0, 60)
MIXED: list[Row] = [
    {
        **row,
        "facts": [{"a": 1}, {"b": "two"}, {}, "text"][at % 4],
        "day": "2024-05-01",
        "note": None if at < 30 else "n",
    }
    for at, row in enumerate(ROWS)
]


def facts_of(rows: Sequence[Row], form: str = "jsonl", **others: Any) -> Facts:
    half = len(rows) // 2
    facts = Facts(
        name="tiny generate",
        splits={"train": Split(f"train.{form}", half), "test": Split(f"test.{form}", len(rows) - half)},
        generator="instructions",
        teachers=["org/teacher@abc"],
        seed=5,
        made=len(rows) + 12,
        dropped={"too short": 0, "language fr": 5, "near": 7},
        sources={"instructions": len(rows)},
        licences={"org/teacher@abc": "mit"},
        spend=Spend(1_234, 56_789, None),
        example=rows[0],
        columns=columns(row_types(rows)),
        licence="apache-2.0",
        language="no",
        tags=["posttrain"],
    )
    return facts._replace(**others)


def written(folder: Path, rows: Sequence[Row], form: str, header: bool = True) -> dict[str, list[Row]]:
    """The rows in two files with their card, read again by the real library."""
    import datasets

    half = len(rows) // 2
    for name, part in (("train", rows[:half]), ("test", rows[half:])):
        if form == "parquet":
            write_parquet(folder / f"{name}.parquet", part, row_types(rows))
        else:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    if header:
        (folder / "README.md").write_text(card(facts_of(rows, form)), encoding="utf-8")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(folder / "cache"))
    assert list(loaded) == ["train", "test"]
    return {name: split.to_list() for name, split in loaded.items()}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    "rows", [ROWS, GENERATORS["extraction"].draft(5, []).make(0, 60)], ids=["instructions", "extraction"]
)
def test_datasets_reads_the_folder_as_it_is(rows: list[Row], form: str, tmp_path: Path) -> None:
    assert written(tmp_path, rows, form) == {"train": rows[:30], "test": rows[30:]}


def test_parquet_gives_back_what_json_lines_cannot(tmp_path: Path) -> None:
    assert written(tmp_path, MIXED, "parquet") == {"train": MIXED[:30], "test": MIXED[30:]}


def test_the_types_in_the_card_hold_for_every_split(tmp_path: Path) -> None:
    (with_card := tmp_path / "with").mkdir()
    (without := tmp_path / "without").mkdir()
    read = written(with_card, MIXED, "jsonl")
    assert [row["note"] for row in read["train"] + read["test"]] == [row["note"] for row in MIXED]
    with pytest.raises(Exception, match="generating the dataset"):
        written(without, MIXED, "jsonl", header=False)


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(tmp_path / name, MIXED, row_types(MIXED))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def header_of(text: str) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return loaded


def test_the_header_is_what_the_hub_asks_for() -> None:
    text = card(facts_of(ROWS))
    header = header_of(text)
    assert {key: header[key] for key in list(header)[:6]} == {
        "license": "apache-2.0",
        "language": ["no"],
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["synthetic", "posttrain"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "train.jsonl"}, {"split": "test", "path": "test.jsonl"}],
            }
        ],
    }
    assert DatasetCard(text).data.to_dict() == header
    assert {"license", "language"}.isdisjoint(header_of(card(facts_of(ROWS, licence=None, language=None))))


def test_the_page_tells_where_every_row_went() -> None:
    text = card(facts_of(ROWS))
    for line in (
        "| made | 72 |",
        "| dropped: language fr | -5 |",
        "| dropped: near | -7 |",
        "| kept | 60 |",
        "| train | train.jsonl | 30 |",
        "| instructions | 60 | not recorded |",
        "| org/teacher@abc |  | mit |",
        "1,234 remote calls, 56,789 tokens, no price known.",
    ):
        assert line in text
    assert "too short" not in text
    assert "No remote call was made." in card(facts_of(ROWS, spend=Spend(0, 0, 0.0)))
    assert "1 remote calls, 2 tokens, 0.2500 USD." in card(facts_of(ROWS, spend=Spend(1, 2, 0.25)))


def test_figures_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="71 rows made, 12 dropped and 60 kept"):
        card(facts_of(ROWS, made=71))


def test_overlaps_are_shown_with_examples() -> None:
    prompt = {"id": "p1", "prompt": ROWS[0]["messages"][0]["content"]}
    _, found = contaminated(ROWS, {"eval": [prompt]})
    overlaps = [{"set": "eval", **found["eval"]._asdict(), "examples": [e._asdict() for e in found["eval"].examples]}]
    text = card(facts_of(ROWS, overlaps=overlaps))
    assert "| eval | 1 | 1 | 1 |" in text
    assert "- row 000000 and prompt p1:" in text
    assert "Overlap with evaluations\n" not in card(facts_of(ROWS))


def structure(markdown: str) -> list[tuple[str, str]]:
    """The kinds of what is on a page, with the text of headings."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    inner = [child for token in tokens for child in token.children or []]
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    kinds = [t.type for t in (*tokens, *inner) if t.type not in ("text", "softbreak", "text_special")]
    return [("heading", text) for text in headings[1:]] + [("kind", kind) for kind in kinds]


def page(text: str, facts: Facts) -> str:
    """The card of the facts with this text wherever a text of the data or of a recipe stands."""
    return card(
        facts._replace(
            name=text,
            teachers=[text],
            sources={text: 60},
            licences={text: text},
            example={"messages": [{"role": "user", "content": text}]},
            language=text,
            licence=text,
            tags=[text],
            limits=[text],
            dropped={text: 12},
            columns=[{"name": text, "dtype": "string"}],
            overlaps=[
                {
                    "set": text,
                    "prompts": 1,
                    "overlapping": 1,
                    "dropped": 0,
                    "examples": [dict(row=text, prompt=text, run=text)],
                }
            ],
        )
    )


def test_no_text_of_the_data_is_read_as_markup() -> None:
    tame, hostile = page("tame", facts_of(ROWS)), page(HOSTILE, facts_of(ROWS))
    header, *_ = hostile.partition("\n---\n")
    assert header.splitlines() == header.split("\n")
    assert yaml.safe_load(header.removeprefix("---\n"))["language"] == [HOSTILE]
    assert DatasetCard(hostile).data["license"] == HOSTILE
    assert structure(DatasetCard(hostile).text) == structure(DatasetCard(tame).text)


def test_a_page_that_takes_texts_as_they_are_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tame = page("tame", facts_of(ROWS))
    monkeypatch.setattr("data_gen.card.shown", str)
    assert structure(DatasetCard(page(HOSTILE, facts_of(ROWS))).text) != structure(DatasetCard(tame).text)


def test_a_fence_of_three_would_be_closed() -> None:
    text = "a\n````\n# Own\n```"
    assert [token.type for token in MarkdownIt().parse(fenced(text, "json"))] == ["fence"]
    assert len(MarkdownIt().parse(f"```json\n{text}\n```")) > 1


def test_a_long_text_of_the_example_is_cut_and_says_so() -> None:
    row = {"messages": [{"role": "user", "content": "a" * 2_100}], "words": ["b"]}
    text = card(facts_of(ROWS, example=row))
    assert "a" * 2_000 + " … (100 more characters)" in text
