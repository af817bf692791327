"""The table of formats: how each is written, which runtime reads it back, and how many bytes its weights take.

What a format needs is imported when it is opened or written: a clean process that measures one format must not carry
the libraries of another.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.exporting.runtime import Runtime

REFERENCE = "fp32"  # what every export is compared with: the model directory itself, merged, in fp32
Open = Callable[[Path, int, int], Runtime]  # path, threads, context in tokens


class Format(NamedTuple):
    """One file format. `opener` imports its runtime; opening is then the loading of the file and nothing else."""

    write: Callable[[Path, Path, str], dict[str, Any]] | None  # model directory, where to, name; facts for the record
    opener: Callable[[], Open]
    size: Callable[[Path], int]  # bytes


def format_of(name: str) -> Format:
    """The format of that name; an unknown one is refused with the list."""
    if name not in FORMATS:
        raise PosttrainError(f"format {name}: unknown; {', '.join(EXPORTS)} are allowed. Correct `formats`.")
    return FORMATS[name]


def open_runtime(name: str, path: Path, threads: int, context: int) -> Runtime:
    """`path`, a directory as its writer left it, in its runtime, with room for `context` tokens a row."""
    return format_of(name).opener()(path, threads, context)


def write_format(name: str, model_dir: Path, out: Path, title: str) -> dict[str, Any]:
    """Write a model directory to `out` in a format; returns facts for the record."""
    write = format_of(name).write
    if write is None:
        raise PosttrainError(f"format {name}: only a reference; {', '.join(EXPORTS)} are allowed. Correct `formats`.")
    return write(model_dir, out, title)


def gguf_in(path: Path, kind: str) -> Path:
    """The GGUF file of a kind in an export's directory, or `path` where it is a file itself."""
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*-{kind.upper()}.gguf"))
    if len(found) != 1:
        raise PosttrainError(
            f"{path}: {len(found)} files *-{kind.upper()}.gguf; one is needed. Export the model again."
        )
    return found[0]


def _write_gguf(kind: str) -> Callable[[Path, Path, str], dict[str, Any]]:
    def write(model_dir: Path, out: Path, name: str) -> dict[str, Any]:
        from posttrain.exporting.gguf_file import write as write_file

        return write_file(model_dir, out, name, kind)

    return write


def _open_gguf(kind: str) -> Callable[[], Open]:
    def opener() -> Open:
        from posttrain.exporting.llamacpp_runtime import LlamaCpp

        return lambda path, threads, context: LlamaCpp(gguf_in(path, kind), threads=threads, context=context)

    return opener


def _open_transformers(merged: bool) -> Callable[[], Open]:
    def opener() -> Open:
        from posttrain.exporting.transformers_runtime import TransformersRuntime

        return lambda path, threads, context: TransformersRuntime(path, threads=threads, merged=merged)

    return opener


def _open_bnb() -> Open:
    import bitsandbytes  # noqa: F401  # opening is then the loading of the file alone

    return _open_transformers(merged=False)()


def _open_onnx() -> Open:
    import onnxruntime  # noqa: F401  # opening is then the loading of the file alone

    from posttrain.exporting.onnx_runtime import OnnxRuntime

    return lambda path, threads, context: OnnxRuntime(path, threads=threads)


def _write_bnb(model_dir: Path, out: Path, name: str) -> dict[str, Any]:
    from posttrain.exporting.bnb_file import write

    return write(model_dir, out, name)


def _write_onnx(model_dir: Path, out: Path, name: str) -> dict[str, Any]:
    from posttrain.exporting.onnx_file import write

    return write(model_dir, out, name)


def _write_safetensors(model_dir: Path, out: Path, name: str) -> dict[str, Any]:
    from posttrain.exporting.safetensors_file import write

    return write(model_dir, out, name)


def _bytes_of(*patterns: str) -> Callable[[Path], int]:
    return lambda path: sum(file.stat().st_size for pattern in patterns for file in path.glob(pattern))


def _bytes_of_gguf(kind: str) -> Callable[[Path], int]:
    return lambda path: gguf_in(path, kind).stat().st_size


def _bytes_in_fp32(path: Path) -> int:
    """4 bytes a stored number, whatever the precision on disk; an adapter adds none to its base once merged."""
    from posttrain.lm.models import root_of

    return sum(4 * _numbers(file) for file in root_of(path).glob("*.safetensors"))


def _numbers(file: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    total = 0
    for key, tensor in header.items():
        if key != "__metadata__":
            count = 1
            for side in tensor["shape"]:
                count *= side
            total += count
    return total


FORMATS = {
    REFERENCE: Format(None, _open_transformers(merged=True), _bytes_in_fp32),
    "gguf-q8_0": Format(_write_gguf("q8_0"), _open_gguf("q8_0"), _bytes_of_gguf("q8_0")),
    "gguf-f16": Format(_write_gguf("f16"), _open_gguf("f16"), _bytes_of_gguf("f16")),
    "bnb-int8": Format(_write_bnb, _open_bnb, _bytes_of("*.safetensors")),
    "onnx-int8": Format(_write_onnx, _open_onnx, _bytes_of("*.onnx", "*.onnx_data", "*.onnx.data")),
    "safetensors": Format(_write_safetensors, _open_transformers(merged=False), _bytes_of("*.safetensors")),
}
EXPORTS = tuple(name for name, each in FORMATS.items() if each.write)
