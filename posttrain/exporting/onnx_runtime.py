"""An exported ONNX directory in ONNX Runtime: no torch, no transformers, as on the machine of whoever uses it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from posttrain.errors import PosttrainError
from posttrain.exporting.runtime import Decoded, Runtime, Scored
from posttrain.exporting.template import FileTemplate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]

FILES = ("prefill.onnx", "decode.onnx", "tokenizer.json", "tokenizer_config.json", "config.json")


class OnnxRuntime(Runtime):
    """`prefill.onnx` and `decode.onnx` of a directory on the CPU, with `threads` threads."""

    def __init__(self, path: Path, *, threads: int) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        missing = [name for name in FILES if not (path / name).is_file()]
        if missing:
            raise PosttrainError(f"{path}: no {missing[0]}; {', '.join(FILES)} are needed. Export the model again.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._prefill, self._decode = (_session(onnxruntime, path / name, options) for name in FILES[:2])
        self._past = [value.name for value in self._decode.get_inputs()][2:]
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._template = FileTemplate(path)
        self.context = int(_json(path / "config.json")["max_position_embeddings"])
        self._stops = _stops(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._prefill, self._decode

    def encode(self, text: str) -> list[int]:
        """Ids of a text by tokenizer.json, nothing added, control strings as tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation by the directory's chat template; none at all without one."""
        return self.encode(self._template.render(messages))

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens too."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def score(self, prompt: Sequence[int], answer: Sequence[int], top: int) -> list[Scored]:
        """One pass of the prefill graph; log-probabilities in fp64 of its logits."""
        import numpy as np

        logits, _ = self.prefill([*prompt, *answer])
        logprobs = _log_softmax(logits[len(prompt) - 1 : -1])
        likeliest = np.argsort(-logprobs, axis=-1, kind="stable")[:, :top]
        return [
            Scored(float(row[token]), tuple((int(each), float(row[each])) for each in best))
            for row, token, best in zip(logprobs, answer, likeliest, strict=True)
        ]

    def prefill(self, ids: Sequence[int]) -> tuple["Logits", list[Any]]:
        """Logits [tokens, vocabulary] of a row and its cache: keys and values [1, heads, tokens, width] a layer."""
        import numpy as np

        if not 0 < len(ids) <= self.context:
            raise PosttrainError(f"a row of {len(ids)} tokens; 1 to {self.context} are allowed. Shorten or fill it.")
        feed = {"input_ids": np.array([ids]), "position_ids": np.arange(len(ids))[None]}
        logits, *past = self._prefill.run(None, feed)
        return logits[0], past

    def decode(self, token: int, position: int, past: list[Any]) -> tuple["Logits", list[Any]]:
        """Logits [vocabulary] after one more token, and the cache with it."""
        import numpy as np

        feed = {"input_ids": np.array([[token]]), "position_ids": np.array([[position]])}
        logits, *past = self._decode.run(None, {**feed, **dict(zip(self._past, past, strict=True))})
        return logits[0, -1], past

    def complete_one(self, prompt: Sequence[int], max_new_tokens: int, temperature: float, seed: int) -> Decoded:
        import numpy as np

        generator = np.random.default_rng(seed)
        start = time.perf_counter()
        whole, past = self.prefill(prompt)
        logits, ids, stopped = whole[-1], [], False
        first = 0.0
        for position in range(len(prompt), len(prompt) + max_new_tokens):
            token = _choose(logits, temperature, generator.random())
            first = first or time.perf_counter()
            stopped = token in self._stops
            if stopped:
                break
            ids.append(token)
            if len(ids) < max_new_tokens:
                logits, past = self.decode(token, position, past)
        end = time.perf_counter()
        return Decoded(ids, stopped, (first or end) - start, end - (first or end))


def _session(onnxruntime: Any, path: Path, options: Any) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (
        errors.Fail,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NoSuchFile,
        errors.RuntimeException,
    ) as error:
        raise PosttrainError(
            f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0][:200]}); a whole graph with its weights "
            "beside it is needed. Export the model again."
        ) from None


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _stops(path: Path) -> frozenset[int]:
    """Stop ids by the generation settings, else by the config: what transformers falls back to as well."""
    settings = path / "generation_config.json"
    found = _json(settings).get("eos_token_id") if settings.is_file() else None
    found = _json(path / "config.json").get("eos_token_id") if found is None else found
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


def _log_softmax(logits: "Logits") -> "NDArray[np.float64]":
    import numpy as np

    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    made: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return made


def _choose(logits: "Logits", temperature: float, uniform: float) -> int:
    """The likeliest id, or the one where the cumulative probability passes `uniform`."""
    import numpy as np

    if temperature == 0:
        return int(logits.argmax())
    cumulative = np.exp(_log_softmax(logits / temperature)).cumsum()
    return int(min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(cumulative) - 1))
