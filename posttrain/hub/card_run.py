"""How to run what is pushed, as code that is run in the tests: transformers, peft, llama.cpp, Ollama, ONNX Runtime."""

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from posttrain.hub.card_text import fenced
from posttrain.hub.lineage import GGUF, formats_in
from posttrain.hub.verify import NEW_TOKENS, Greedy, Messages, recorded_prompt

if TYPE_CHECKING:
    from posttrain.hub.release import Release

PIPELINE = """from transformers import pipeline

ask = pipeline("text-generation", model={repo}, dtype="float32")
messages = {messages}
print(ask(messages, max_new_tokens={tokens}, do_sample=False)[0]["generated_text"][-1]["content"])"""

GENERATE = """
messages = {messages}
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""

PEFT = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained({repo}, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained({repo})"""

FOLDER = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({repo}, subfolder={folder})
tokenizer = AutoTokenizer.from_pretrained({repo}, subfolder={folder})"""

SERVED = """from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
messages = {messages}
reply = client.chat.completions.create(model={name}, messages=messages, max_tokens={tokens}, temperature=0)
print(reply.choices[0].message.content)"""

LLAMA_CPP = """hf download {repo} --local-dir {local}
cd {path}
llama-cli --model {file} --conversation  # a chat in the terminal, or
llama-server --model {file} --port 8080  # an OpenAI-compatible server"""

OLLAMA = """cd {path}
ollama create {name} --file Modelfile
ollama run {name}"""

ONNX = """hf download {repo} --local-dir {local}
cd {path}
python generate.py {question}"""


class Snippet(NamedTuple):
    """A block of code that runs as it stands, and what it needs."""

    title: str
    language: str
    code: str


def how_to_run(release: "Release", greedy: Greedy | None) -> str:
    """The snippets, then what they print: those in Python ask the same and choose the likeliest token."""
    messages = greedy.messages if greedy else recorded_prompt(release)
    parts = [f"{one.title}\n\n{fenced(one.code, one.language)}" for one in snippets(release, messages)]
    if greedy:
        file = f" from `{next(iter(formats_in(release)))}`" if release.shape == "files" else ""
        parts.append(
            f"The likeliest answer, at most {NEW_TOKENS} tokens of it, recorded{file} when "
            f"these files were loaded in a clean directory before the upload:\n\n{fenced(greedy.text)}"
        )
    return "\n\n".join(parts)


def snippets(release: "Release", messages: Messages) -> Iterator[Snippet]:
    """What fits the files."""
    values = {"repo": json.dumps(release.repo), "messages": _python(messages), "tokens": NEW_TOKENS}
    if release.shape == "adapter":
        yield Snippet(
            "With peft, which also fetches the base model:", "python", (PEFT + "\n" + GENERATE).format(**values)
        )
        yield Snippet(
            "With transformers alone (peft installed beside it); `float32` is how the model was judged:",
            "python",
            PIPELINE.format(**values),
        )
    elif release.shape == "model":
        title = "With transformers; `float32` is how the model was judged, `bfloat16` takes half the memory:"
        yield Snippet(title, "python", PIPELINE.format(**values))
    for name, folder in formats_in(release).items():
        yield from _of_file(release, name, folder, messages)


def _of_file(release: "Release", name: str, folder: str, messages: Messages) -> Iterator[Snippet]:
    local = release.repo.rpartition("/")[2]
    path = f"{local}/{folder}".rstrip("/")
    where = {"repo": release.repo, "local": local, "path": path}
    values = {"messages": _python(messages), "tokens": NEW_TOKENS, "name": json.dumps(local)}
    if name.startswith(GGUF):
        ending = f"-{name.removeprefix(GGUF).upper()}.gguf"
        file = next(file.name for file in release.files if file.name.endswith(ending))
        commands = LLAMA_CPP.format(**where, file=file)
        yield Snippet(f"`{name}` with [llama.cpp](https://github.com/ggml-org/llama.cpp):", "shell", commands)
        yield Snippet("From Python, with that server running:", "python", SERVED.format(**values))
        ollama = OLLAMA.format(path=path, name=local.lower())
        yield Snippet(f"`{name}` with [Ollama](https://ollama.com), once it is downloaded:", "shell", ollama)
    elif name == "onnx-int8":
        question = _shell(messages[-1]["content"])
        commands = ONNX.format(**where, question=question)
        yield Snippet(f"`{name}` with onnxruntime, numpy and tokenizers alone:", "shell", commands)
    else:
        code = (FOLDER + "\n" + GENERATE).format(repo=json.dumps(release.repo), folder=json.dumps(folder), **values)
        extra = " and bitsandbytes" if name == "bnb-int8" else ""
        yield Snippet(f"`{name}` with transformers{extra}:", "python", code)


def _python(messages: Messages) -> str:
    """A Python literal in ASCII quotes; JSON of plain text is one."""
    return json.dumps(messages, ensure_ascii=False)


def _shell(text: str) -> str:
    return shlex.quote(" ".join(text.split()))
