"""A chain that starts from a hub model, pushed by the command line and loaded by what people use; secrets stay here."""

import itertools
import json
import os
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
from hub_double import SIGNATURE, TOKEN, Fault, HubDouble, reach
from test_hub_push import NEW, OLD, contents, held, push

pytestmark = pytest.mark.slow
CANARY = "canary-7f3a91c2-of-this-environment"
RECIPE = """
name: tiny
seed: 7
steps:
  base: {kind: base, model: org/base}
  data: {kind: generate, rows: 60, test_size: 4}
  sft: {kind: sft, model: base, data: data, lora: {r: 2}, max_length: 512, max_dropped: 0.9, learning_rate: 1e-2}
"""
LOAD = """
import sys
import torch
from datasets import load_dataset
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
for load in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
    model = load.from_pretrained("user/tuned").eval()
    print(f"{model(torch.arange(4, 20)[None]).logits.double().sum().item():.6f}")
print(AutoTokenizer.from_pretrained("user/tuned").chat_template is not None)
print(load_dataset("user/rows"))
"""
OWN = """
from copy import deepcopy
from pathlib import Path
import torch
from posttrain.lm.models import load_model
print(load_model(Path("runs/tiny/sft")).eval()(torch.arange(4, 20)[None]).logits.double().sum().item())
"""
PUSH = """
import sys
from huggingface_hub.utils import disable_progress_bars
from posttrain.hub.release import File
from posttrain.hub.upload import Target, upload
disable_progress_bars()
files = [File(name, data.encode()) for name, data in FILES.items()]
upload(files, Target("user/name", "model"), "a push", print)
"""


def environment(double: HubDouble, home: Path) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return found | {
        "HF_ENDPOINT": double.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": CANARY,
    }  # fmt: skip


def called(command: list[str], double: HubDouble, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=environment(double, folder / "home"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
    )


def posttrain(double: HubDouble, folder: Path, *arguments: str) -> str:
    done = called(["-m", "posttrain", *arguments], double, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_an_adapter_and_its_rows_are_pushed_and_loaded_by_others(tiny_chat_model: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    with HubDouble() as double:
        commit = double.add("org/base", tiny_chat_model)
        said = posttrain(double, tmp_path, "run", "tiny.yaml")
        double.requests.clear()
        double.faults = [
            Fault("/lfs/", status=503, method="PUT", words=CANARY),
            Fault("/commit/", status=500, words=CANARY, times=2),
        ]
        said += posttrain(double, tmp_path, "push", "tiny.yaml", "--step", "sft", "--repo", "user/tuned")
        said += posttrain(double, tmp_path, "push", "tiny.yaml", "--step", "data", "--repo", "user/rows", "--private")
        assert f"{double.endpoint}/user/tuned/commit/{double.commits('user/tuned')[-1].oid}" in said
        settings = json.loads(double.files("user/tuned")["adapter_config.json"])
        assert (settings["base_model_name_or_path"], settings["revision"]) == ("org/base", commit)
        again = posttrain(double, tmp_path, "push", "tiny.yaml", "--step", "sft", "--repo", "user/tuned")
        assert "no commit was made" in again and len(double.commits("user/tuned")) == 2

        loaded = called(["-c", LOAD], double, tmp_path)
        assert loaded.returncode == 0, loaded.stderr
        by_peft, by_transformers, template, *rows = loaded.stdout.splitlines()
        assert by_peft == by_transformers and template == "True"
        assert "train" in "".join(rows) and "num_rows: 4" in "".join(rows)
        own = called(["-c", OWN], double, tmp_path)
        assert float(own.stdout) == pytest.approx(float(by_peft), rel=1e-4), own.stderr
        nothing_leaked(double, tmp_path, said + again)


def nothing_leaked(double: HubDouble, folder: Path, said: str) -> None:
    """No secret in what was said, kept or sent; and the search finds what is there."""
    kept = [path for path in folder.rglob("*") if path.is_file()]
    texts = {str(path): path.read_bytes() for path in kept} | {"output": said.encode(), "sent": double.sent()}
    secrets = {TOKEN, CANARY, SIGNATURE}
    found = {(name, secret) for name, text in texts.items() for secret in secrets if secret.encode() in text}
    assert found == {("sent", SIGNATURE)}, "the address that a large file is put to holds it"
    assert str(folder).encode() not in double.sent(), "no path of this machine"
    assert any(b"adapter_config" in text for text in texts.values())


def test_a_push_that_is_killed_at_any_request_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = set()
    with HubDouble() as double:
        reach(double, monkeypatch)
        push(OLD)
        before = deepcopy((double.repositories, double.large))
        for at in itertools.count(1):
            double.repositories, double.large = deepcopy(before)
            double.faults = [Fault("", nth=at, stall=True, accepted=True)]
            code = PUSH.replace("FILES", repr({name: data.decode() for name, data in contents(NEW).items()}))
            process = subprocess.Popen([sys.executable, "-c", code], env=environment(double, tmp_path))
            while double.faults[0].met < at and process.poll() is None:
                time.sleep(0.02)
            if process.poll() is not None:
                assert process.returncode == 0 and held(double) == contents(NEW)
                break
            time.sleep(0.1)  # what was accepted is done by then
            process.kill()
            process.wait()
            assert held(double) in (contents(OLD), contents(NEW))
            states.add(held(double) == contents(NEW))
            double.faults = []
            push(NEW)
            assert held(double) == contents(NEW) and len(double.commits("user/name")) == 3, "one commit in all"
    assert states == {False, True} and at > 5
