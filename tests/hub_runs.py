"""Runs for the tests of pushing: store entries that were put there by hand, named by a run.json."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.chain.identity import digest
from posttrain.chain.store import Artifact, Store

COMMIT = "c" * 40
NOT_FOR_OTHERS = ("training_args.bin", "optimizer.pt", "journal.sqlite", "verdicts.jsonl", "trainer_state.json")
RULING = {"rubric": digest("a rubric"), "prompts": digest("prompts")}  # what a judge went by
Write = Callable[[Path], object]


class HubRun:
    """A run of recipe `tiny`: nodes are added in order, each with what `write` puts into its directory."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "runs/store", say=lambda text: None)
        self.rows: list[dict[str, Any]] = []
        self.made: dict[str, Artifact] = {}

    def add(
        self, name: str, kind: str, write: Write, inputs: Mapping[str, str] | None = None,
        metrics: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None, **of_row: Any,
    ) -> Artifact:  # fmt: skip
        """`inputs` name steps; what is no step is given as its identity, `hub:org/name@commit` say."""
        named = {field: self._input(value) for field, value in (inputs or {}).items()}
        identity = digest({"name": name, "kind": kind, "inputs": named, "metrics": dict(metrics or {})})
        partial = self.store.partial(kind, identity)
        write(partial)
        record = {
            "kind": kind, "version": 1, "identity": identity, "inputs": named,
            "config": {"kind": kind, **(config or {})}, "metrics": {"summary": name, **(metrics or {})},
            "finished": "2026-01-01T00:00:00+00:00",
            "provenance": {
                "seconds": 1.0, "peak_memory_mb": 10.0, "joules": None, "commit": "abc", "source": "def",
                "posttrain": "0.1.0", "python": "3.11", "packages": {"torch": "2.13.0"},
                "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
            },
        }  # fmt: skip
        artifact = self.made[name] = self.store.complete(partial, record)
        self.rows.append(
            {
                "name": name,
                "kind": kind,
                "identity": identity,
                "cached": False,
                "seconds": 1.0,
                "entry": artifact.path.name,
            }
            | of_row
        )
        folder = self.store.root.parent / "tiny"
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"recipe": "tiny", "nodes": self.rows}))
        return artifact

    def _input(self, value: str) -> dict[str, str]:
        if value in self.made:
            return {"identity": self.made[value].identity, "reference": value}
        return {"identity": value, "reference": value.removeprefix("hub:").split("@")[0]}

    def judge(self, step: str, verdict: str, **of_row: Any) -> None:
        score = {"instruct": {"score": 7.0, "low": 6.0, "high": 8.0}}
        metrics = {"judge": "rule", "primary": "instruct", "axes": score, "n_scored": 2, "n_asked": 2}
        metrics |= {"verdict": verdict, "why": "so it is"}
        self.add(f"{step}.judge", "judge", lambda out: None, {"judged": step}, metrics, RULING, **of_row)


def copied(source: Path) -> Write:
    """The files of a directory, and some that are nobody else's business."""

    def write(out: Path) -> None:
        for file in source.iterdir():
            (out / file.name).write_bytes(file.read_bytes())
        for name in NOT_FOR_OTHERS:
            (out / name).write_bytes(b"{}")

    return write


def adapter(base: Path, seed: int, name: str | None = None) -> Write:
    """A LoRA that changes what `base` says; it names its base as `name`, or by its path."""

    def write(out: Path) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        from posttrain.lm.models import load_model, load_tokenizer

        torch.manual_seed(seed)
        settings = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        model = get_peft_model(load_model(base), settings)
        model.peft_config["default"].base_model_name_or_path = name or str(base)
        model.save_pretrained(out)
        load_tokenizer(base).save_pretrained(out)

    return write


def rows(*texts: str) -> Write:
    """Rows with these answers, one of them held out."""

    def write(out: Path) -> None:
        made = [
            {"id": str(at), "messages": [{"role": "user", "content": "Tell."}, {"role": "assistant", "content": text}]}
            for at, text in enumerate(texts)
        ]
        lines = [json.dumps(row) + "\n" for row in made]
        (out / "test.jsonl").write_text("".join(lines[:1]))
        (out / "train.jsonl").write_text("".join(lines[1:]))

    return write
