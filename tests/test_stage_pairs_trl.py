"""TRL's DPOTrainer reads the rows as they are, and finds the prompt and both answers with their stop tokens."""

import os
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import pytest
from datasets import Dataset
from pairs_stage import paired, rows_of, rows_step, text_of

from posttrain.lm.chat import ChatFormat
from posttrain.lm.models import load_model, load_tokenizer

TOKENIZED = ("prompt_ids", "chosen_ids", "rejected_ids")


def trained(model: Path, rows: list[dict[str, Any]], folder: Path) -> Any:
    """A trainer that has made one step on the rows."""
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, max_steps=1, per_device_train_batch_size=2, report_to="none"
    )
    trainer = DPOTrainer(
        model=load_model(model), ref_model=load_model(model), args=args, train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model),
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.slow
def test_trl_trains_on_the_rows_as_they_are(faulty: Path, tmp_path: Path) -> None:
    prompts = rows_step(tmp_path / "p", rows=[{"id": f"{n}", "prompt": f"Say {n}."} for n in range(20)])
    paired(tmp_path / "a", faulty, prompts, sampling={"max_new_tokens": 9}, min_rows=1)
    rows = rows_of(tmp_path / "a")
    trainer = trained(faulty, rows, tmp_path / "t")
    assert trainer.state.global_step == 1
    chat = ChatFormat(load_tokenizer(faulty), "m")
    for row, tokens in zip(rows, trainer.train_dataset, strict=True):
        prompt, chosen, rejected = (list(tokens[name]) for name in TOKENIZED)
        assert prompt == chat.render(row["prompt"], add_generation_prompt=True).ids
        for side, ids in (("chosen", chosen), ("rejected", rejected)):
            said = chat.tokenizer(text_of(row, side), add_special_tokens=False).input_ids
            assert ids == [*said, *chat.stop_ids]
