"""The code of a card runs as it stands, in a clean process, and prints what the card says it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_double import HubDouble
from hub_releases import (
    BASE,
    REPO,
    STORYTELLER,
    add_export,
    assembled,
    path_of,
    put_adapter,
    put_files,
    put_model,
    release,
)
from hub_releases import tuned_run as tuned

from posttrain.hub.card import data_card, model_card
from posttrain.hub.release import Release
from posttrain.hub.verify import Greedy, recorded_prompt, verify
from posttrain.rows import write_rows

BLOCK = re.compile(r"^(`{3,})(\w+)\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)


def blocks(card: str, language: str) -> list[str]:
    return [found[3] for found in BLOCK.finditer(card.partition("## How it was judged")[0]) if found[2] == language]


def printed(card: str) -> str:
    """What the card says that its first snippet prints."""
    [text] = blocks(card, "text")
    return text


def environment(endpoint: str, home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    tools = Path(sys.executable).parent
    more = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **more, "PATH": f"{home / 'bin'}:{tools}:{kept['PATH']}"}


def ran(command: list[str], endpoint: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=folder, env=environment(endpoint, folder), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def python(code: str, endpoint: str, folder: Path) -> str:
    return ran([sys.executable, "-c", code], endpoint, folder)


def checked(going: Release, folder: Path, double: HubDouble) -> tuple[str, Greedy]:
    """The release on the double with its card, as a push leaves it."""
    greedy = verify(assembled(going, folder), going)
    card = model_card(going, greedy)
    (folder / "README.md").write_text(card, encoding="utf-8")
    double.add(REPO, folder)
    assert printed(card) == greedy.text
    return card, greedy


@pytest.mark.slow
def test_the_snippet_of_a_model_prints_the_recorded_completion(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    put_model(run, "sft")
    with HubDouble() as double:
        card, greedy = checked(release(run), tmp_path / "folder", double)
        [snippet] = blocks(card, "python")
        assert python(snippet, double.endpoint, tmp_path / "home") == greedy.text
        shorter = snippet.replace("max_new_tokens=32", "max_new_tokens=8")
        assert shorter != snippet and python(shorter, double.endpoint, tmp_path / "home") != greedy.text


@pytest.mark.slow
def test_both_snippets_of_an_adapter_print_the_recorded_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tuned(tmp_path / "run")
    put_adapter(run, "sft")
    with HubDouble() as double:
        for key, value in environment(double.endpoint, tmp_path / "home").items():
            monkeypatch.setenv(key, value)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        base = f"{BASE}@{double.add(BASE, STORYTELLER)}"
        card, greedy = checked(release(run, "sft", "adapter", base), tmp_path / "folder", double)
        by_peft, by_pipeline = blocks(card, "python")
        assert "AutoPeftModelForCausalLM" in by_peft and "pipeline(" in by_pipeline
        for snippet in (by_peft, by_pipeline):
            assert python(snippet, double.endpoint, tmp_path / "home") == greedy.text


STUB = """#!{python}
import pathlib, sys
arguments = sys.argv[1:]
file = next((value for name, value in zip(arguments, arguments[1:]) if name in ("--model", "--file")), None)
if file is not None and not pathlib.Path(file).is_file():
    sys.exit(file + " is not here")
print(pathlib.Path(sys.argv[0]).name, *arguments)
"""


def stand_ins(folder: Path) -> None:
    """Programs of llama.cpp and Ollama that only look whether the file that they are given is there."""
    folder.mkdir(parents=True)
    for name in ("llama-cli", "llama-server", "ollama"):
        (folder / name).write_text(STUB.format(python=sys.executable))
        (folder / name).chmod(0o755)


@pytest.mark.slow
def test_the_snippets_of_exported_files_run(tmp_path: Path) -> None:
    from posttrain.engines.llamacpp_engine import serve

    run = tuned(tmp_path / "run")
    formats = ("gguf-q8_0", "onnx-int8", "safetensors")
    add_export(run, formats)
    put_files(run, "export", formats)
    home = tmp_path / "home"
    stand_ins(home / "bin")
    with HubDouble() as double:
        card, greedy = checked(release(run, "export", "files"), tmp_path / "folder", double)
        llamacpp, ollama, onnx = blocks(card, "shell")
        said = ran(["bash", "-ec", llamacpp], double.endpoint, home)
        assert said.splitlines()[-2:] == [
            "llama-cli --model tiny-Q8_0.gguf --conversation",
            "llama-server --model tiny-Q8_0.gguf --port 8080",
        ]
        assert "ollama create tuned --file Modelfile" in ran(["bash", "-ec", ollama], double.endpoint, home)
        told = ran(["bash", "-ec", onnx], double.endpoint, home).splitlines()[-1]
        asked, by_transformers = blocks(card, "python")
        assert python(by_transformers, double.endpoint, home)
    assert told and recorded_prompt(release(run, "export", "files"))[0]["content"] in card
    with serve(home / "tuned" / "tiny-Q8_0.gguf", context=512) as server:
        address = asked.replace("http://127.0.0.1:8080", server.base_url)
        assert address != asked and python(address, "http://127.0.0.1:9", home) == greedy.text


@pytest.mark.slow
def test_the_snippet_of_a_data_card_loads_the_rows(tmp_path: Path) -> None:
    from data_gen.card import Facts, Spend, Split, card

    run = tuned(tmp_path / "run")
    path = path_of(run, "rows")
    rows = [{"id": f"r{at}", "messages": [{"role": "user", "content": "Hi"}]} for at in range(3)]
    write_rows(path / "train.jsonl", rows)
    splits = {"train": Split("train.jsonl", 3)}
    facts = Facts("rows", splits, "instructions", [], 7, 3, {}, {"ours": 3}, {}, Spend(0, 0, 0.0), rows[0], [])
    (path / "README.md").write_text(card(facts), encoding="utf-8")
    going = release(run, "rows", "rows")
    folder = assembled(going, tmp_path / "folder")
    (folder / "README.md").write_text(data_card(going), encoding="utf-8")
    with HubDouble() as double:
        double.add(REPO, folder, "dataset")
        [snippet] = blocks((folder / "README.md").read_text(encoding="utf-8"), "python")
        home = tmp_path / "home"
        assert python(f"{snippet}\nprint(list(rows['train']['id']))", double.endpoint, home) == "['r0', 'r1', 'r2']"


def test_a_program_that_is_given_a_missing_file_is_caught(tmp_path: Path) -> None:
    stand_ins(tmp_path / "bin")
    command = [str(tmp_path / "bin" / "llama-cli"), "--model", "missing.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "missing.gguf is not here" in done.stderr
