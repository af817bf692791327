"""What is pushed must load by itself, in a clean process, and say what the model in the store says."""

from pathlib import Path

import pytest
import torch
from hub_double import HubDouble
from hub_releases import BASE, STORYTELLER, add_export, assembled, put_adapter, put_files, put_model, release
from hub_releases import tuned_run as tuned
from safetensors.torch import load_file, save_file

from posttrain.errors import PosttrainError
from posttrain.hub.release import Release
from posttrain.hub.verify import recorded_prompt, verify


def zeroed(path: Path) -> None:
    """Set the largest tensor of a safetensors file to zero."""
    tensors = load_file(path)
    name = max(tensors, key=lambda key: tensors[key].numel())
    save_file({**tensors, name: torch.zeros_like(tensors[name])}, path, {"format": "pt"})


def test_the_recorded_prompt_is_the_first_held_out_one_and_a_greeting_without(tmp_path: Path) -> None:
    run = tuned(tmp_path)
    assert recorded_prompt(release(run)) == [{"role": "user", "content": "Story 0 with the words fox and run."}]
    assert recorded_prompt(release(run, "rows", "rows")) == [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Release:
    run = tuned(tmp_path_factory.mktemp("exported"))
    add_export(run, ("gguf-q8_0",))
    put_files(run, "export", ("gguf-q8_0",))
    return release(run, "export", "files")


def test_an_exported_file_says_the_same_as_the_stores_and_zeros_in_it_are_caught(
    exported: Release, tmp_path: Path
) -> None:
    folder = assembled(exported, tmp_path)
    greedy = verify(folder, exported)
    assert greedy.text and greedy.messages == recorded_prompt(exported)
    file = folder / "tiny-Q8_0.gguf"
    data = file.read_bytes()
    file.write_bytes(data[:-200_000] + bytes(200_000))  # still a whole file, with a zeroed layer
    with pytest.raises(PosttrainError, match="not the model that was judged"):
        verify(folder, exported)


def test_a_file_that_does_not_load_is_refused_with_its_reason(exported: Release, tmp_path: Path) -> None:
    folder = assembled(exported, tmp_path)
    (folder / "tiny-Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(PosttrainError, match=r"cannot be loaded from a directory of their own \(.*llama.cpp cannot"):
        verify(folder, exported)


@pytest.mark.slow
def test_a_model_says_the_same_in_a_pipeline_and_a_zeroed_tensor_is_caught(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    put_model(run, "sft")
    going = release(run)
    folder = assembled(going, tmp_path / "folder")
    greedy = verify(folder, going)
    assert greedy.text and 1 <= len(greedy.ids) <= 32
    zeroed(folder / "model.safetensors")
    with pytest.raises(PosttrainError, match="not the model that was judged"):
        verify(folder, going)
    (folder / "config.json").unlink()
    with pytest.raises(PosttrainError, match="cannot be loaded from a directory of their own"):
        verify(folder, going)


@pytest.mark.slow
def test_an_adapter_is_loaded_on_the_hubs_base_and_another_adapter_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = tuned(tmp_path / "run"), tuned(tmp_path / "other")
    put_adapter(run, "sft")
    put_adapter(other, "sft", seed=2)
    with HubDouble() as double:
        commit = double.add(BASE, STORYTELLER)
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        going = release(run, "sft", "adapter", f"{BASE}@{commit}")
        folder = assembled(going, tmp_path / "folder")
        assert verify(folder, going).text
        assert any(f"/{BASE}/resolve/{commit}/model.safetensors" in path for path in double.asked)
        wrong = assembled(release(other, "sft", "adapter", f"{BASE}@{commit}"), tmp_path / "wrong")
        with pytest.raises(PosttrainError, match="not the model that was judged"):
            verify(wrong, going)
        local = folder / "adapter_config.json"
        local.write_text(local.read_text().replace(BASE, "runs/store/base-0123"))
        with pytest.raises(PosttrainError, match=r"cannot be loaded .*Check that someone/storyteller@"):
            verify(folder, going)
