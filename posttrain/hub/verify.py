"""Does what would be pushed load, and is it the model that was judged?

The assembled directory is loaded in a clean process, in a directory of its own, by what people will use:
AutoPeftModelForCausalLM, transformers' pipeline, or the runtime of an exported file. There it completes a prompt
greedily. The text must be what the store's own copy says, byte for byte.

    python -m posttrain.hub.verify REQUEST.json RESULT.json
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.hub.fetch import split
from posttrain.hub.lineage import formats_in
from posttrain.rows import read_rows

if TYPE_CHECKING:
    from posttrain.hub.release import Release

NEW_TOKENS = 32
TEMPLATE = 256  # tokens that a chat template may put round a request, a system prompt of its own included
Messages = list[dict[str, str]]


class Greedy(NamedTuple):
    """A conversation and its likeliest continuation, token after token, at most NEW_TOKENS of them."""

    messages: Messages
    text: str
    ids: list[int]  # a stop token included where one came; none of an exported file


def recorded_prompt(release: "Release") -> Messages:
    """The first held-out prompt that the step was sampled on; a greeting where it was not."""
    for row, artifact in release.nodes:
        if row["name"] == f"{release.step}.samples":
            return [{"role": "user", "content": str(read_rows(artifact.path / "completions.jsonl")[0]["prompt"])}]
    return [{"role": "user", "content": "Hello"}]


def verify(folder: Path, release: "Release") -> Greedy:
    """The greedy completion of the files in `folder`, equal to that of the store's own copy.

    Of several exported formats each is compared and the first one's is given. Raises PosttrainError where the
    directory cannot be loaded by itself, and where it says something else.
    """
    messages = recorded_prompt(release)
    own = next(artifact.path for row, artifact in release.nodes if row["name"] == release.step)
    if release.shape == "files":
        found = [
            Greedy(messages, _equal(_clean(folder / place, name, messages), _clean(own / name, name, messages)), [])
            for name, place in formats_in(release).items()
        ]
        return found[0]
    expected = _of_store(own, messages)
    how = "adapter" if release.shape == "adapter" else "model"
    _equal(_clean(folder, how, messages, release.base), expected.text)
    return expected


def _equal(text: str, expected: str) -> str:
    if text != expected:
        raise PosttrainError(
            f"the files that would be pushed: loaded by themselves they say {text!r}; the model in the store says "
            f"{expected!r}, and the same is needed. They are not the model that was judged: check that the adapter's "
            "base on the hub is the one it was trained on, run the step again with --rerun, and push once more."
        )
    return text


def _of_store(path: Path, messages: Messages) -> Greedy:
    """The completion by the chain's own loading, rendering and decoding."""
    import torch

    from posttrain.engines.decoding import decode
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(path)
    chat = ChatFormat(tokenizer, str(path))
    prompt = chat.render(messages, add_generation_prompt=True).ids
    [ids] = decode(load_model(path).eval(), [prompt], chat.stop_ids, NEW_TOKENS, 0.0, torch.Generator())
    return Greedy(messages, str(tokenizer.decode(ids, skip_special_tokens=True)), ids)


def _clean(folder: Path, how: str, messages: Messages, base: str | None = None) -> str:
    """The completion by a process that knows nothing but the folder, and the hub where there is a base to fetch."""
    offline = {} if base and not _cached(base) else {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as elsewhere:
        asked, told = Path(elsewhere, "request.json"), Path(elsewhere, "result.json")
        asked.write_text(json.dumps({"folder": str(folder.resolve()), "how": how, "messages": messages}), "utf-8")
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "posttrain.hub.verify", str(asked), str(told)],
            env={**os.environ, **offline, "PYTHONPATH": paths},
            cwd=elsewhere,  # a relative path to the store would lead nowhere on another machine
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not told.is_file():
            words = [line for line in done.stderr.splitlines() if line.strip()]
            raise PosttrainError(
                f"the files that would be pushed: they cannot be loaded from a directory of their own "
                f"({words[-1].strip() if words else f'the process ended with {done.returncode}'}); files that load by "
                f"themselves are needed. {'Check that ' + base + ' is on the hub. ' if base else ''}"
                "Run the step again with --rerun, and push once more."
            )
        return str(json.loads(told.read_text(encoding="utf-8")))


def _cached(base: str) -> bool:
    """Whether the weights of `org/name@commit` are in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    name, commit = split(base)
    config = try_to_load_from_cache(name, "config.json", revision=commit)
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))


def _complete(folder: Path, how: str, messages: Messages) -> str:
    """In the clean process. fp32, as the model was judged; files as they are."""
    if how == "adapter":
        return _by_peft(folder, messages)
    if how == "model":
        return _by_pipeline(folder, messages)
    from posttrain.exporting.formats import open_runtime

    room = sum(len(message["content"].encode()) for message in messages)  # a rare character is a token a byte
    with open_runtime(how, folder, 1, room + TEMPLATE + NEW_TOKENS) as runtime:
        prompt = runtime.render(messages)
        return runtime.text(runtime.complete_one(prompt, runtime.room(prompt, NEW_TOKENS), 0.0, 0).ids)


def _by_peft(folder: Path, messages: Messages) -> str:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model: Any = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return str(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _by_pipeline(folder: Path, messages: Messages) -> str:
    from transformers import pipeline

    ask = pipeline("text-generation", model=str(folder), dtype="float32", device="cpu")
    said = ask(messages, max_new_tokens=NEW_TOKENS, do_sample=False)
    return str(said[0]["generated_text"][-1]["content"])


def _main(request_file: str, result_file: str) -> None:
    """The clean process. It ends at once, because a runtime's own threads may not."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    try:
        text = _complete(Path(request["folder"]), request["how"], request["messages"])
    except PosttrainError as error:
        sys.exit(str(error))
    Path(result_file).write_text(json.dumps(text), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
