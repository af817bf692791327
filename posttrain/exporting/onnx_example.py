"""Ask the model in this folder: python generate.py "Tell me a story." — needs onnxruntime, numpy and tokenizers."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).parent


def main(question: str, most: int = 200) -> None:
    """Print the likeliest answer, token after token."""
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    prompt = json.loads((HERE / "prompt.json").read_text("utf-8")) or {"before": "", "after": ""}
    stops = json.loads((HERE / "generation_config.json").read_text("utf-8")).get("eos_token_id")
    prefill, decode = (onnxruntime.InferenceSession(HERE / f"{name}.onnx") for name in ("prefill", "decode"))
    past_names = [value.name for value in decode.get_inputs()][2:]

    ids = tokenizer.encode(prompt["before"] + question + prompt["after"], add_special_tokens=False).ids
    answer: list[int] = []
    positions = np.arange(len(ids))[None]
    logits, *past = prefill.run(None, {"input_ids": np.array([ids]), "position_ids": positions})
    while len(answer) < most:
        token = int(logits[0, -1].argmax())
        if token in (stops if isinstance(stops, list) else [stops]):
            break
        answer.append(token)
        step = {"input_ids": np.array([[token]]), "position_ids": np.array([[len(ids) + len(answer) - 1]])}
        logits, *past = decode.run(None, {**step, **dict(zip(past_names, past, strict=True))})
    print(tokenizer.decode(answer, skip_special_tokens=False))


if __name__ == "__main__":
    main(sys.argv[1])
