"""Evaluation prompts for structured extraction: texts that no training row tells, each with its expected answer.

They come from the generator of the training rows, from a name and a seed of their own; a text is asked about once.

    python -m data_gen.extraction_prompts --seed 2026 --rows 200 > eval/prompts/extraction.jsonl
"""

from collections.abc import Iterator
from itertools import count, islice

from data_gen.extraction import told_and_asked, told_row
from data_gen.generator import Row
from data_gen.prompts import print_prompts


def all_prompts(seed: int) -> Iterator[Row]:
    """Prompts without end."""
    for index in count():
        told, request = told_and_asked("extraction prompt", seed, index)
        row = told_row(f"x{index:03d}", told, request)
        question, answer = (message["content"] for message in row["messages"])
        facts = {key: row[key] for key in ("words", "text", "template", "expected")}
        yield {"id": row["id"], "prompt": question, **facts, "reference": answer}


def prompt_rows(seed: int, rows: int) -> list[Row]:
    """The first `rows` prompts of `seed`."""
    return list(islice(all_prompts(seed), rows))


if __name__ == "__main__":
    print_prompts(prompt_rows, __doc__, seed=2026)
