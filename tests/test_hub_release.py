"""What of a step goes to the hub: an allow-list, no path of this machine, and an adapter only where its base is."""

import json
from pathlib import Path

import pytest
import torch
from hub_runs import COMMIT, NOT_FOR_OTHERS, HubRun, adapter, copied, rows

from posttrain.errors import PosttrainError
from posttrain.hub.release import File, Release, release_of
from posttrain.lm.adapters import concatenate
from posttrain.lm.models import load_model, load_tokenizer, save_model
from posttrain.stages.dpo import FOR_BASE

HUB_BASE = f"hub:org/base@{COMMIT}"
UNCHANGED = {"new_token_ids": [], "reference": None}


@pytest.fixture
def run(tmp_path: Path) -> HubRun:
    return HubRun(tmp_path)


def release(run: HubRun, step: str) -> Release:
    return release_of("tiny", run.store, step, "user/name", run.store.root.parent / f"merged-{step}")


def names(found: Release) -> set[str]:
    return {file.name for file in found.files}


def content(found: Release, name: str) -> bytes:
    file = next(file for file in found.files if file.name == name)
    return file.content if isinstance(file.content, bytes) else file.content.read_bytes()


def laid_out(files: tuple[File, ...], folder: Path) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file.name).write_bytes(file.content if isinstance(file.content, bytes) else file.content.read_bytes())
    return folder


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder).eval()(torch.arange(4, 20)[None]).logits


def test_only_what_is_on_the_list_goes(run: HubRun, tiny_chat_model: Path) -> None:
    made = run.add("base", "base", copied(tiny_chat_model), {"model": HUB_BASE}, UNCHANGED)
    found = release(run, "base")
    assert (found.shape, found.repo_type, found.base) == ("model", "model", None)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names(found)
    assert {*NOT_FOR_OTHERS, "artifact.json"} & names(found) == set()
    assert {*NOT_FOR_OTHERS, "artifact.json"} <= {file.name for file in made.path.iterdir()}, "they were there"


def test_an_adapter_names_its_base_as_others_find_it(run: HubRun, tiny_chat_model: Path) -> None:
    run.add("base", "base", copied(tiny_chat_model), {"model": HUB_BASE}, UNCHANGED)
    run.add("sft", "sft", adapter(tiny_chat_model, 1), {"model": "base"})
    run.add("direct", "sft", adapter(tiny_chat_model, 1), {"model": HUB_BASE})
    for step in ("sft", "direct"):
        found = release(run, step)
        assert (found.shape, found.base, found.merged) == ("adapter", f"org/base@{COMMIT}", None)
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} == (
            names(found) - {"tokenizer_config.json"}
        )
        settings = json.loads(content(found, "adapter_config.json"))
        assert (settings["base_model_name_or_path"], settings["revision"]) == ("org/base", COMMIT)
        assert not any(str(tiny_chat_model).encode() in content(found, name) for name in names(found))
    assert str(tiny_chat_model) in (run.made["sft"].path / "adapter_config.json").read_text(), "it was there"


def test_an_adapter_whose_base_is_on_no_hub_goes_merged(run: HubRun, tiny_chat_model: Path, tmp_path: Path) -> None:
    changed = {**UNCHANGED, "new_token_ids": [600]}
    run.add("base", "base", copied(tiny_chat_model), {"model": HUB_BASE}, changed)
    run.add("sft", "sft", adapter(tiny_chat_model, 1), {"model": "base"})
    run.add("grown", "base", copied(tiny_chat_model), {"model": HUB_BASE}, UNCHANGED, {"grow": {"layers": 3}})
    run.add("tall", "sft", adapter(tiny_chat_model, 2), {"model": "grown"})
    run.add("full", "sft", copied(tiny_chat_model), {"model": "base"})
    run.add("upon", "dpo", adapter(tiny_chat_model, 3), {"model": "full"})
    run.add("local", "sft", adapter(tiny_chat_model, 4), {"model": str(tiny_chat_model)})
    why = {
        "sft": "step 'base' changed org/base",
        "tall": "step 'grown' changed org/base",
        "upon": "its base is what step 'full' made",
        "local": "is a directory and not on the hub",
    }
    for step, words in why.items():
        found = release(run, step)
        assert found.shape == "model" and found.base is None and words in str(found.merged)
        assert "adapter_config.json" not in names(found) and not names(found) & set(NOT_FOR_OTHERS)
    folder = laid_out(release(run, "sft").files, tmp_path / "out")
    assert torch.allclose(logits(folder), logits(run.made["sft"].path), atol=1e-5)
    assert not torch.allclose(logits(folder), logits(tiny_chat_model), atol=1e-2), "the adapter says something else"
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in folder.iterdir())


def test_adapters_of_two_rounds_go_as_one_of_the_first_base(run: HubRun, tiny_chat_model: Path, tmp_path: Path) -> None:
    run.add("base", "base", copied(tiny_chat_model), {"model": HUB_BASE}, UNCHANGED)
    first = run.add("sft", "sft", adapter(tiny_chat_model, 1), {"model": "base"})
    merged = tmp_path / "merged"
    save_model(load_model(first.path), load_tokenizer(first.path), merged)

    def second(out: Path) -> None:
        adapter(merged, 2)(out)
        concatenate(first.path, out, out / FOR_BASE)

    made = run.add("dpo", "dpo", second, {"model": "sft"})
    run.add("apart", "dpo", adapter(merged, 2), {"model": "sft"})
    found = release(run, "dpo")
    assert found.shape == "adapter" and found.base == f"org/base@{COMMIT}"
    folder = laid_out(found.files, tmp_path / "out")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["r"] == 4
    own_base = {**settings, "base_model_name_or_path": str(tiny_chat_model), "revision": None}
    (folder / "adapter_config.json").write_text(json.dumps(own_base))
    assert torch.allclose(logits(folder), logits(made.path), atol=1e-4)
    assert not torch.allclose(logits(folder), logits(first.path), atol=1e-2), "the second round counts"
    apart = release(run, "apart")
    assert apart.shape == "model" and "trained on the adapter of 'sft'" in str(apart.merged)


def test_a_step_that_did_not_pass_goes_itself(run: HubRun, tiny_chat_model: Path) -> None:
    run.add("base", "base", copied(tiny_chat_model), {"model": HUB_BASE}, UNCHANGED)
    run.add("sft", "sft", adapter(tiny_chat_model, 1), {"model": "base"})
    run.judge("sft", "FAIL", kept="base")
    own = (run.made["sft"].path / "adapter_model.safetensors").read_bytes()
    assert content(release(run, "sft"), "adapter_model.safetensors") == own


def test_rows_are_a_data_set(run: HubRun) -> None:
    run.add("data", "generate", rows("One.", "Two.", "Three."))
    found = release(run, "data")
    assert (found.shape, found.repo_type, names(found)) == ("rows", "dataset", {"train.jsonl", "test.jsonl"})


def test_exported_files_lie_where_their_runtimes_look(run: HubRun) -> None:
    formats = {
        "onnx-int8": ("decode.onnx", "model.onnx.data", "config.json", "generate.py", "trace.log"),
        "gguf-q8_0": ("m-Q8_0.gguf", "Modelfile", "llama.cpp.md", "scratch.bin"),
        "gguf-f16": ("m-F16.gguf", "Modelfile", "llama.cpp.md"),
    }

    def write(out: Path) -> None:
        for name, files in formats.items():
            (out / name).mkdir()
            for file in files:
                (out / name / file).write_text("{}" if file.endswith("json") else name)

    run.add("export", "export", write, {"model": HUB_BASE}, {"formats": {name: {} for name in formats}})
    found = release(run, "export")
    assert found.shape == "files" and names(found) == {
        "onnx-int8/decode.onnx", "onnx-int8/model.onnx.data", "onnx-int8/config.json", "onnx-int8/generate.py",
        "m-Q8_0.gguf", "m-F16.gguf", "Modelfile", "llama.cpp.md",
    }  # fmt: skip
    assert content(found, "Modelfile") == b"gguf-q8_0", "of the first format"


def test_settings_lose_what_they_say_of_this_machine(run: HubRun, tiny_chat_model: Path) -> None:
    def write(out: Path) -> None:
        copied(tiny_chat_model)(out)
        settings = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**settings, "_name_or_path": "/home/ann/models/x"}))

    run.add("base", "base", write, {"model": HUB_BASE}, UNCHANGED)
    found = release(run, "base")
    assert "_name_or_path" not in json.loads(content(found, "config.json"))
    assert json.loads(content(found, "config.json"))["hidden_size"] == 32
    assert "is_local" not in json.loads(content(found, "tokenizer_config.json"))


@pytest.mark.parametrize("repo", ["name", "user/name/x", "user/../name", "/etc/passwd", "user/na me", "user/a--b"])
def test_a_name_that_is_no_repositorys_is_refused(run: HubRun, repo: str) -> None:
    run.add("data", "generate", rows("One.", "Two."))
    with pytest.raises(PosttrainError, match="user/name or organisation/name is allowed"):
        release_of("tiny", run.store, "data", repo)


def test_unknown_steps_and_steps_without_files_are_refused(run: HubRun) -> None:
    run.add("data", "generate", rows("One.", "Two."))
    run.add("odd", "generate", lambda out: (out / "notes.md").write_text("x"))
    with pytest.raises(PosttrainError, match=r"no step 'dato'.*data"):
        release(run, "dato")
    with pytest.raises(PosttrainError, match="'odd' holds no model, rows or exported files"):
        release(run, "odd")
