"""The recipes that start from the hub, run for real at miniature: the same YAML, tiny models of the same kind.

Models and data sets come from the loopback hub, under the names that the recipes give; two optimizer steps a stage.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_models
import pytest
from hub_double import TOKEN, HubDouble

from data_gen.story import tell
from posttrain.rows import read_rows

PROJECT = Path(__file__).resolve().parents[1]
THOUGHT = "<think>\nIs it 12 or 13? Let x = 12.\n</think>\n\n"
OFFLINE = [  # the judge that needs no key, on a few prompts
    *("judge.judge=rule", "judge.rubric=eval/rubrics/story.md", "judge.prompts=eval/prompts/tinystories.jsonl"),
    *("gate.axis=instruct", "judge.limit=4", "judge.samples=1", "judge.max_new_tokens=12"),
    *("export.rows=3", "export.completions=2", "export.new_tokens=4"),
]


def talk(number: int, start: str = "") -> list[dict[str, str]]:
    said = tell(3, number).text[:120]
    return [{"role": "user", "content": f"Tell me of {number}."}, {"role": "assistant", "content": f"{start}{said}"}]


def data_set(folder: Path, file: str, rows: list[dict[str, Any]], config: str = "default") -> Path:
    """A Parquet data set with a card that names its one file, as the hub's are."""
    from datasets import Dataset

    (folder / file).parent.mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(folder / file)
    split = Path(file).name.split("-")[0]
    entry = f"- {{config_name: {config}, data_files: [{{split: {split}, path: {Path(file).parent}/{split}-*}}]}}"
    (folder / "README.md").write_text(f"---\nconfigs:\n{entry}\n---\nRows.\n")
    (folder / ".gitattributes").write_text("")
    return folder


def chats(folder: Path, file: str, **more: Any) -> Path:
    start = more.pop("start", "")
    config = more.pop("config", "default")
    return data_set(folder, file, [{**more, "messages": talk(n, start)} for n in range(24)], config)


def preferences(folder: Path) -> Path:
    rows = [
        {"prompt": talk(n)[0]["content"], "chosen": talk(n), "rejected": talk(n + 100)[1:], "messages": talk(n)}
        for n in range(24)
    ]
    rows = [{**row, "rejected": [*row["chosen"][:1], *row["rejected"]]} for row in rows]
    rows = [{**row, "score_chosen": 8.0, "score_rejected": 5.0} for row in rows]
    return data_set(folder, "data/train_prefs-00000-of-00001.parquet", rows)


class Real:
    """A recipe with the repositories it names, and what makes it small."""

    def __init__(
        self, models: dict[str, Callable[[Path], Path]], data: dict[str, Callable[[Path], Path]], *small: str
    ) -> None:
        self.models, self.data, self.small = models, data, small


RECIPES = {
    "tinystories-hub": Real(
        {
            "roneneldan/TinyStories-1M": hub_models.gpt_neo,
            "roneneldan/TinyStories-33M": lambda path: hub_models.gpt_neo(path, 64, 4),
        },
        {
            "roneneldan/TinyStories": lambda path: data_set(
                path, "data/train-00000-of-00001-2d5a14.parquet", [{"text": tell(5, n).text} for n in range(60)]
            )
        },
        *("stories.test_size=4", "teacher.trainer.max_steps=2", "distill.trainer.max_steps=2"),
    ),
    "smollm2-135m-chat": Real(
        {"HuggingFaceTB/SmolLM2-135M": hub_models.smollm},
        {
            "HuggingFaceTB/smol-smoltalk": lambda path: chats(path, "data/train-0.parquet", source="smol-magpie-ultra"),
            "HuggingFaceH4/ultrafeedback_binarized": preferences,
        },
        *("chats.test_size=4", "pairs.test_size=4", "pairs.min_rows=8", "pairs.max_one_sided=1", "dpo.gate.hold=[]"),
        *("sft.trainer.max_steps=2", "dpo.trainer.max_steps=2"),
    ),
    "qwen-r1-distill": Real(
        {"Qwen/Qwen2.5-0.5B": hub_models.qwen2},
        {
            "open-r1/Mixture-of-Thoughts": lambda path: chats(
                path,
                "math/train-0.parquet",
                source="open-r1/OpenR1-Math-220k",
                num_tokens=9,
                start=THOUGHT,
                config="math",
            )
        },
        *("traces.test_size=4", "distill.trainer.max_steps=2"),
    ),
    "tinyllama-chat": Real(
        {"TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": hub_models.llama},
        {
            "HuggingFaceH4/ultrachat_200k": lambda path: chats(
                path, "data/train_sft-0.parquet", prompt="Tell me.", prompt_id="1"
            )
        },
        *("chats.test_size=4", "sft.trainer.max_steps=2"),
    ),
}


@pytest.fixture
def double() -> Iterator[HubDouble]:
    with HubDouble() as made:
        yield made


def posttrain(double: HubDouble, folder: Path, *arguments: str) -> str:
    """Run a command of posttrain with the double as its hub; its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": double.endpoint, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_TOKEN": TOKEN, "OPENAI_API_KEY": ""}
    command = [sys.executable, "-m", "posttrain", *arguments, "--store", str(folder / "store")]
    answer = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=500)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def run_small(double: HubDouble, folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Run a recipe as it is but for its size; the records of its artifacts, by step."""
    real = RECIPES[name]
    for kind, repositories in (("model", real.models), ("dataset", real.data)):
        for repository, make in repositories.items():
            double.add(repository, make(folder / repository), kind)
    changes = [part for text in (*OFFLINE, *real.small) for part in ("--set", text)]
    told = json.loads(posttrain(double, folder, "run", name, "--json", *changes))
    assert {step["name"] for step in told["steps"]} >= {"base", "export"}
    run = json.loads((folder / name / "run.json").read_text())
    return {
        node["name"]: json.loads((folder / "store" / node["entry"] / "artifact.json").read_text())
        | {"path": folder / "store" / node["entry"]}
        for node in run["nodes"]
    }


def pushed(double: HubDouble, folder: Path, name: str, *steps: str) -> dict[str, set[str]]:
    """Push steps of a recipe; the files that the hub then holds."""
    changes = [part for text in (*OFFLINE, *RECIPES[name].small) for part in ("--set", text)]
    for step in steps:
        posttrain(double, folder, "push", name, "--step", step, "--repo", f"user/{step}", "--anyway", *changes)
    held = {step: set(double.files(f"user/{step}")) for step in steps}
    assert all({"README.md", "posttrain.json"} <= files for files in held.values())
    return held


def check_trained(records: dict[str, dict[str, Any]], *steps: str) -> None:
    for step in steps:
        metrics = records[step]["metrics"]
        assert metrics["steps"] == 2 and metrics["loss"] > 0


def rows_of_readme(text: str) -> set[str]:
    return {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}


def test_every_recipe_has_a_row_that_says_what_to_expect() -> None:
    text = (PROJECT / "recipes" / "README.md").read_text()
    shipped = {path.stem for path in (PROJECT / "recipes").glob("*.yaml")}
    assert rows_of_readme(text) == shipped >= RECIPES.keys()
    assert rows_of_readme(text.replace("| `smoke`", "| smoke")) == shipped - {"smoke"}  # negative control


@pytest.mark.slow
def test_smollm2_becomes_a_file_of_llama_cpp(double: HubDouble, tmp_path: Path) -> None:
    records = run_small(double, tmp_path, "smollm2-135m-chat")
    check_trained(records, "sft", "dpo")
    assert records["export"]["metrics"]["formats"]["gguf-q8_0"]["tokenizer"] == 1
    assert "smollm2-135m-chat-Q8_0.gguf" in pushed(double, tmp_path, "smollm2-135m-chat", "export")["export"]


@pytest.mark.slow
def test_tinystories_of_the_hub_learn_from_their_larger_sister(double: HubDouble, tmp_path: Path) -> None:
    records = run_small(double, tmp_path, "tinystories-hub")
    check_trained(records, "teacher", "distill")
    assert records["export"]["metrics"]["formats"].keys() == {"fp32", "safetensors", "bnb-int8"}
    assert "model.safetensors" in pushed(double, tmp_path, "tinystories-hub", "distill")["distill"]


@pytest.mark.slow
def test_thinking_is_kept_from_the_traces_to_the_file(double: HubDouble, tmp_path: Path) -> None:
    records = run_small(double, tmp_path, "qwen-r1-distill")
    check_trained(records, "distill")
    rows = read_rows(records["traces"]["path"] / "train.jsonl")
    assert all(row["messages"][1]["content"].startswith(THOUGHT) for row in rows)
    folder = records["export"]["path"] / "gguf-q8_0"
    stops = [line for line in (folder / "Modelfile").read_text().splitlines() if line.startswith("PARAMETER stop")]
    assert stops == ['PARAMETER stop "<|endoftext|>"', 'PARAMETER stop "<|im_end|>"'], "not the base's end alone"
    assert records["export"]["metrics"]["formats"]["gguf-q8_0"]["tokenizer"] == 1
    assert "model.safetensors" in pushed(double, tmp_path, "qwen-r1-distill", "distill")["distill"]


@pytest.mark.slow
def test_an_adapter_on_four_bits_is_merged_into_the_whole_base(double: HubDouble, tmp_path: Path) -> None:
    records = run_small(double, tmp_path, "tinyllama-chat")
    check_trained(records, "sft")
    assert records["sft"]["metrics"]["summary"].startswith("QLoRA r=16")
    assert records["export"]["metrics"]["formats"]["gguf-q8_0"]["tokenizer"] == 1
    assert "model.safetensors" in pushed(double, tmp_path, "tinyllama-chat", "sft")["sft"], (
        "merged: the base has changed"
    )
