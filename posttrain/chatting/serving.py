"""An OpenAI-compatible server of a step's model by an existing engine: llama.cpp's, or vLLM's. Never our own."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from posttrain.engines.llamacpp_engine import serve
from posttrain.engines.threads import threads_for
from posttrain.errors import PosttrainError

CONTEXT = 4096  # tokens a request at most; less where the model was trained on less
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SNIPPET = """\
from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key="none")
stream = client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Hello"}}], stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


class Address(NamedTuple):
    """Where to listen; port 0 is any free one."""

    host: str
    port: int

    def check(self) -> "Address":
        """The address with a port, which is free now; an error where it is not."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except (OSError, OverflowError) as error:
                raise PosttrainError(
                    f"{self.host} port {self.port}: cannot listen there ({error}); an address of this machine and a "
                    "free port are needed. Choose others with --host and --port (0 takes any)."
                ) from None
            return Address(self.host, probe.getsockname()[1])


class Wanted(NamedTuple):
    """What is to be served, a GGUF file or a model directory; `name` is what requests call a directory's model."""

    path: Path
    name: str
    address: Address


def serve_llamacpp(wanted: Wanted, dry_run: bool, as_json: bool) -> None:
    """Serve a GGUF file; of a model directory one is written first, in f16, and deleted at the end."""
    path, address = wanted.path, wanted.address.check()
    if path.is_dir():
        _say(f"{path} is no GGUF file: one is written first (gguf-f16, in a temporary directory)")
    if dry_run:
        name = wanted.name if path.is_dir() else path
        return print(f"llama.cpp would serve {name} at http://{address.host}:{address.port}/v1")
    try:
        with (
            as_gguf(path, wanted.name) as file,
            serve(
                file,
                context=CONTEXT,
                threads=threads_for(file.stat().st_size),
                host=address.host,
                port=address.port,
            ) as running,
        ):
            _say(f"llama.cpp serves {file}")
            _tell(f"{running.base_url}/v1", file.stem, address.host, as_json)
            running.wait()
            raise PosttrainError(f"{file}: llama.cpp ended by itself. Serve it again; less memory may be in use then.")
    except KeyboardInterrupt:
        return _say("stopped")


@contextmanager
def as_gguf(path: Path, name: str) -> Iterator[Path]:
    """A file as it is; a directory as a temporary file `name`-F16.gguf, gone when the block ends."""
    if path.is_file():
        yield path
        return
    from posttrain.lm.gguf import write_gguf

    with tempfile.TemporaryDirectory(prefix="posttrain-") as folder:
        file = Path(folder) / f"{name}-F16.gguf"
        write_gguf(path, file, "f16", name)
        yield file


def serve_vllm(wanted: Wanted, dry_run: bool, as_json: bool) -> None:
    """Run `vllm serve` on a model directory; an adapter is merged into its base first."""
    path, name = wanted.path, wanted.name
    if path.is_file():
        raise PosttrainError(
            f"{path}: a GGUF file; vLLM takes a model directory. Leave --engine out for llama.cpp, or choose a step "
            "that makes a model."
        )
    adapter = (path / "adapter_config.json").is_file()
    if adapter:
        _say(f"{path} is an adapter: it is merged into its base first (in a temporary directory)")
    address = wanted.address.check()
    if dry_run:
        print(shlex.join(vllm_command(Path("MERGED") if adapter else path, name, address)))
        return
    if shutil.which("vllm") is None:
        raise PosttrainError(
            "vllm: not installed; --engine vllm needs its command. Install it in an environment of its own (pip "
            "install vllm, on a machine with a GPU) and put that on the PATH, or leave --engine out: llama.cpp serves."
        )
    with _merged(path) if adapter else _as_it_is(path) as directory:
        command = vllm_command(directory, name, address)
        _say(shlex.join(command))
        _tell(f"http://{address.host}:{address.port}/v1", name, address.host, as_json)
        _until_the_end(command)


def vllm_command(directory: Path, name: str, address: Address) -> list[str]:
    """vLLM's own command line; `name` is what requests call the model."""
    where = ["--host", address.host, "--port", str(address.port)]
    return ["vllm", "serve", str(directory), "--served-model-name", name, *where]


def _until_the_end(command: list[str]) -> None:
    with subprocess.Popen(command) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            return _say("stopped")
    raise PosttrainError(f"vllm ended by itself with code {code}; its own words stand above.")


@contextmanager
def _as_it_is(path: Path) -> Iterator[Path]:
    yield path


@contextmanager
def _merged(adapter: Path) -> Iterator[Path]:
    from posttrain.lm.models import load_model, load_tokenizer, save_model

    with tempfile.TemporaryDirectory(prefix="posttrain-") as folder:
        save_model(load_model(adapter), load_tokenizer(adapter), Path(folder))
        yield Path(folder)


def _tell(base_url: str, model: str, host: str, as_json: bool) -> None:
    """How to ask it, for people; with `as_json` one line for programs."""
    if host not in LOOPBACK:
        _say(f"anybody who can reach {host} may ask it: there is no key")
    _say("Ctrl-C ends it")
    if as_json:
        return print(json.dumps({"base_url": base_url, "model": model}), flush=True)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    header = "Content-Type: application/json"
    print(f"base URL: {base_url}\n", flush=True)
    print(f"curl {base_url}/chat/completions -H {shlex.quote(header)} -d {shlex.quote(body)}\n")
    return print(SNIPPET.format(base_url=base_url, model=model), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
