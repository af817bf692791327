"""Two rounds of pairs and DPO in one recipe: two more entries, and the second follows from the first one's model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pairs_stage import faulty_model
from peft import PeftModel
from stage_context import PROMPTS

from posttrain.chain.graph import build_graph
from posttrain.chain.recipe import parse_recipe
from posttrain.cli import main
from posttrain.lm.models import base_of, load_model
from posttrain.stages import STAGES

PAIRS = {
    "kind": "pairs", "prompts": "asked", "margin": 0, "samples": 3, "shared_start": True, "test_size": 3, "min_rows": 3,
    "max_one_sided": 1, "sampling": {"max_new_tokens": 24},
}  # fmt: skip
DPO = {
    "kind": "dpo", "lora": {"r": 2}, "mask_shared_start": True, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
}  # fmt: skip


def recipe(model: Path, rounds: int, **first: Any) -> dict[str, Any]:
    steps: dict[str, Any] = {
        "base": {"kind": "base", "model": str(model)},
        "rows": {"kind": "generate", "rows": 60, "test_size": 5},
        "sft": {"kind": "sft", "model": "base", "data": "rows", "lora": {"r": 2}, "per_device_train_batch_size": 16},
        "asked": {"kind": "generate", "rows": 50, "test_size": 5, "seed": 1},
        "pairs": {**PAIRS, "model": "sft"},
        "dpo": {**DPO, "model": "sft", "data": "pairs", **first},
        "pairs_2": {**PAIRS, "model": "dpo", "seed": 2},
        "dpo_2": {**DPO, "model": "dpo", "data": "pairs_2"},
    }
    kept = {name: step for name, step in steps.items() if rounds == 2 or not name.endswith("_2")}
    judge = {"prompts": str(PROMPTS), "limit": 6, "samples": 1, "max_new_tokens": 20}
    return {"name": "rounds", "judge": judge, "gate": {"on_fail": "warn"}, "steps": kept}


def identities(raw: dict[str, Any]) -> dict[str, str]:
    return {node.name: node.identity for node in build_graph(parse_recipe(raw, "r", STAGES), STAGES, None, str)}


def test_a_second_round_leaves_the_first_as_it_is_and_follows_from_it(tiny_chat_model: Path) -> None:
    one, two = identities(recipe(tiny_chat_model, 1)), identities(recipe(tiny_chat_model, 2))
    assert {name: two[name] for name in one} == one
    assert {name.split(".")[0] for name in two.keys() - one.keys()} == {"pairs_2", "dpo_2"}
    changed = identities(recipe(tiny_chat_model, 2, beta=0.2))
    assert {name.split(".")[0] for name in two if changed[name] != two[name]} == {"dpo", "pairs_2", "dpo_2"}


@pytest.mark.slow
def test_two_rounds_run_and_are_cached_and_their_adapter_applies_to_the_first_base(
    tiny_chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = tmp_path / "rounds.yaml", tmp_path / "runs/store"

    def run(rounds: int) -> dict[str, Any]:
        path.write_text(yaml.safe_dump(recipe(model, rounds), sort_keys=False))
        main(["run", str(path), "--store", str(store), "--json"])
        return {step["name"]: step for step in json.loads(capsys.readouterr().out)["steps"]}

    model = faulty_model(tiny_chat_model, tmp_path / "model")
    first, both = run(1), run(2)
    assert all(both[name]["cached"] for name in first) and not both["pairs_2"]["cached"] and not both["dpo_2"]["cached"]
    assert all(step["cached"] for step in run(2).values())
    for name in ("dpo", "dpo_2"):  # the reference is the model of the round before: DPO starts at ln 2
        assert both[name]["metrics"]["loss_curve"][0][1] == pytest.approx(math.log(2), abs=1e-5)
    last = tmp_path / "runs/rounds/dpo_2"
    ids = torch.randint(10, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    joined = PeftModel.from_pretrained(load_model(base_of(last / "adapter_for_base")), last / "adapter_for_base").eval()
    with torch.no_grad():
        wanted, found = load_model(last).eval()(ids).logits, joined(ids).logits
        before = load_model(tmp_path / "runs/rounds/dpo").eval()(ids).logits
    assert json.loads((last / "adapter_for_base/adapter_config.json").read_text())["r"] == 6
    assert (wanted - found).abs().max() <= 1e-4 < (wanted - before).abs().max()
