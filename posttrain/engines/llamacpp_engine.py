"""llama.cpp's own OpenAI-compatible server (package xllamacpp) on a free loopback port, for as long as a `with` block.

It serves a GGUF file as its users will: chat template, tokenizer and stops are those in the file. With one slot a
seeded request gives the same answer each time; with more, batches depend on timing, and so do the last digits.

The server is a process of its own: inside this one, its destructor would wait for ever for a request that is still
being answered. It ends with this process too, even a killed one, because it reads from a pipe that then closes.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from posttrain.errors import PosttrainError


class Running(NamedTuple):
    """A server that answers now: `base_url` + "/v1" is what the `openai` client takes."""

    base_url: str
    wait: Callable[[], object] = lambda: None  # returns when the server is gone


@contextmanager
def serve(
    path: Path,
    *,
    context: int,
    slots: int = 1,
    threads: int = 1,
    cache: Literal["f16", "f32"] = "f16",
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[Running]:
    """Serve a GGUF file, to this machine only unless `host` says more; the server is gone when the block ends.

    Port 0 is any free one. `context` is tokens a slot; llama.cpp rounds it up to a multiple of 256 and down to what
    the model was trained on.
    `cache` "f32" computes attention as transformers does in fp32; "f16" is llama.cpp's usual way.
    """
    settings = {
        "path": str(path),
        "context": context,
        "slots": slots,
        "threads": threads,
        "cache": cache,
        "host": host,
        "port": port,
    }
    command = [sys.executable, "-m", "posttrain.engines.llamacpp_engine", json.dumps(settings)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().strip()
            if not base_url:
                raise PosttrainError(
                    f"{path}: llama.cpp cannot serve it ({_reason(log)}); a whole GGUF file that fits the memory is "
                    "needed. Check the path, or export it again."
                )
            yield Running(base_url, process.wait)
        finally:
            process.kill()


def _reason(log: IO[str]) -> str:
    """The first error that llama.cpp reports, else the last line of whatever was said."""
    log.seek(0)
    lines = log.read().split("\n")
    errors = [line.partition(" E ")[2].strip() for line in lines if " E " in line]
    return [*errors, *reversed([line.strip() for line in lines if line.strip()]), "without a word"][0]


def server_parameters(
    xllamacpp: Any,
    path: str,
    context: int,
    slots: int,
    threads: int,
    cache: str,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Any:
    made = xllamacpp.CommonParams()
    made.model.path, made.model_alias = path, {Path(path).stem}
    made.hostnames, made.port = [host], port  # port 0 is any free one
    made.cors_origins, made.ui = "", False  # no page in a browser may ask
    made.n_parallel, made.n_ctx = slots, slots * context
    made.cpuparams.n_threads = made.cpuparams_batch.n_threads = threads
    made.verbosity = 1  # errors only
    made.warmup = made.fit_params = False
    made.cache_prompt, made.cache_ram_mib = False, 0  # a reused prefix changes the last digits of the next answer
    # What a request leaves out is plain sampling, as in OpenAI's API, not llama.cpp's own cuts.
    made.sampling.temp, made.sampling.top_p, made.sampling.top_k, made.sampling.min_p = 1.0, 1.0, 0, 0.0
    if cache == "f32":
        made.cache_type_k = made.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        made.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return made


def _main() -> None:
    """The server's process: say the address, then stay until the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    import xllamacpp

    server = xllamacpp.Server(server_parameters(xllamacpp, **json.loads(sys.argv[1])))
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _main()
