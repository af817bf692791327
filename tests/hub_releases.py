"""Releases for the tests of cards: records of runs that never ran round a real model, its adapter and its files."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from report_fakes import Run

from posttrain.chain.identity import sha256_path
from posttrain.hub.release import File, Release, Shape

ROOT = Path(__file__).parents[1]
STORYTELLER = ROOT / "models" / "storyteller-1m"
BASE = "someone/storyteller"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "user/tuned"
PROMPT = 'Tell a story with the word "fox".'


def tuned_run(folder: Path, base: str = str(STORYTELLER), identity: str | None = None, **of_judge: Any) -> Run:
    """base, rows and sft, each judged; `base` and its identity are what came from outside."""
    run = Run(folder, {"sft": "Once upon a time there was a fox. The end."})
    from_outside = identity or sha256_path(STORYTELLER)
    run.add("base", "base", {"summary": f"{base}: 1.47M parameters", "parameters": 1_465_600}, {"model": base})
    run.nodes[0][1].record["inputs"]["model"]["identity"] = from_outside
    run.sample("base")
    run.judge("base", 3.0)
    counts = {"control strings removed": 0, "kept": 90, "exact": 4, "near": 0}
    config = {"generator": "instructions"}
    run.add(
        "rows", "generate", {"summary": "80 rows", "rows": 80, "rows_held_out": 10, "counts": counts}, {}, {}, config
    )
    run.judge("rows", 9.0, of_rows=True)
    tuned = {"summary": "LoRA on 80 rows", "rows": 80, "rows_dropped_too_long": 0, "rows_cut": 0}
    tuned |= {"tokens": 4000, "supervised_tokens": 3000}
    run.add("sft", "sft", tuned, {"model": "base", "data": "rows"}, {}, {"learning_rate": 2e-3, "lora": {"r": 4}})
    run.sample("sft")
    run.judge("sft", 6.0, "base", **{"why": "better | than *before*", **of_judge})
    for row, artifact in run.nodes:
        if row["kind"] == "judge":
            rubric = ROOT / "eval" / "rubrics" / "story.md"
            artifact.record["config"] |= {"rubric": sha256_path(rubric), "prompts": sha256_path(run.prompts)}
    return run


def path_of(run: Run, step: str) -> Path:
    return next(artifact.path for row, artifact in run.nodes if row["name"] == step)


def release(run: Run, step: str = "sft", shape: Shape = "model", base: str | None = None) -> Release:
    """What lies beside the record of a step, as it would go; GGUF files at the root."""
    path = path_of(run, step)
    files = [
        File(file.name if file.parent.name.startswith("gguf-") else str(file.relative_to(path)), file)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    kind = "dataset" if shape == "rows" else "model"
    return Release("tiny", step, REPO, kind, shape, run.nodes, base, tuple(files))


def put_model(run: Run, step: str) -> Path:
    """A whole model in fp32 as a step's artifact."""
    from posttrain.lm.models import load_model, load_tokenizer, save_model

    path = path_of(run, step)
    save_model(load_model(STORYTELLER), load_tokenizer(STORYTELLER), path)
    return path


def put_adapter(run: Run, step: str, seed: int = 1) -> Path:
    """An adapter of the storyteller that changes what it says."""
    from peft import LoraConfig, get_peft_model

    from posttrain.lm.models import load_model, load_tokenizer

    path = path_of(run, step)
    torch.manual_seed(seed)
    model = get_peft_model(load_model(STORYTELLER), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.peft_config["default"].base_model_name_or_path = str(STORYTELLER)
    model.save_pretrained(path)
    load_tokenizer(STORYTELLER).save_pretrained(path)
    (path / "README.md").unlink()
    return path


def assembled(release: Release, folder: Path) -> Path:
    """The files as they would be on the hub; an adapter names its base there."""
    for file in release.files:
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.content, bytes):
            (folder / file.name).write_bytes(file.content)
        else:
            shutil.copyfile(file.content, folder / file.name)
    if release.base:
        config = folder / "adapter_config.json"
        name, _, commit = release.base.partition("@")
        settings = json.loads(config.read_text()) | {"base_model_name_or_path": name, "revision": commit}
        config.write_text(json.dumps(settings))
    return folder


def put_files(run: Run, step: str, formats: tuple[str, ...]) -> Path:
    """Exported files of the storyteller."""
    from posttrain.exporting.formats import write_format

    path = path_of(run, step)
    for name in formats:
        write_format(name, STORYTELLER, path / name, "tiny")
    return path


def add_export(run: Run, formats: tuple[str, ...]) -> None:
    """An export of sft, unmeasured apart from what the table of files needs."""
    one = {
        "bytes": 1_718_976, "load_seconds": 0.04, "idle_mb": 32.8, "peak_mb": 47.5, "ms_per_token": 0.353,
        "prefill_tokens_per_second": 13768.1, "decode_tokens_per_second": 2836.6, "tuned_kl": None,
    }  # fmt: skip
    metrics = {"summary": "files", "formats": dict.fromkeys(formats, one), "threads": 1, "scored_tokens": 100}
    run.add("export", "export", metrics, {"model": "sft"}, {}, {"formats": list(formats), "name": "tiny"})
    run.sample("export")
