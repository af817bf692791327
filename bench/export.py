"""Exported files beside what they were made from, in one run: size, decoding speed, and what 8 bits lose.

`speed` builds Llamas of random weights (speed does not ask what a model says) and decodes the same prompts greedily by
transformers' own `generate` in fp32 and by llama.cpp from a Q8_0 file, each in a process of its own, one after the
other, `--repeats` times; medians and their ratio. `text` takes a model directory and a text file, and gives bits per
byte in fp32 and from each file, pieces of the text as clusters.

    python -m bench.export speed --millions 15 100
    python -m bench.export text MODEL TEXT.txt --formats gguf-q8_0 onnx-int8 --pieces 200
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen.pairing import spread
from eval.statistics import cluster_bootstrap
from posttrain.exporting.formats import REFERENCE, write_format
from posttrain.exporting.measure import Corpus, Measured, Row, measure, memory_mb

ROOT = Path(__file__).parents[1]
SHAPES = {15: (384, 8, 6, 1024, 5120), 100: (768, 12, 12, 2048, 20480)}  # width, layers, heads, MLP, vocabulary
PROMPTS, NEW = 4, 64
CHARACTERS = 900  # of a piece of text: some 250 tokens of a small vocabulary


def build(millions: int, folder: Path) -> int:
    """A Llama of random weights with the tokenizer of our own models; returns its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from posttrain.lm.models import load_tokenizer, save_model

    width, layers, heads, inner, words = SHAPES[millions]
    tokenizer = load_tokenizer(ROOT / "models" / "storyteller-1m")
    config = LlamaConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    save_model(model, tokenizer, folder)
    return sum(parameter.numel() for parameter in model.parameters())


def generate(folder: Path, prompts: Sequence[list[int]], threads: int) -> dict[str, float]:
    """Milliseconds a token of transformers' `generate`, greedy, without a stop; run in a process of its own."""
    import torch

    from posttrain.lm.models import load_model

    torch.set_num_threads(threads)
    model = load_model(folder).eval()
    made = 0.0
    with torch.inference_mode():
        for at, prompt in enumerate([prompts[0], *prompts]):
            ids, seconds = torch.tensor([prompt]), []
            for count in (1, NEW):  # the difference is decoding without the prompt
                start = time.perf_counter()
                model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
                seconds.append(time.perf_counter() - start)
            if at:  # the first prompt warms up
                made += (seconds[1] - seconds[0]) / (NEW - 1)
    return {"ms_per_token": 1000 * made / len(prompts), "peak_mb": memory_mb("VmHWM")}


def speed(millions: int, threads: int, repeats: int) -> None:
    """Print one row."""
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name, "model"), Path(name, "gguf")
        count = build(millions, folder)
        write_format("gguf-q8_0", folder, file, "random")
        size = next(file.glob("*.gguf")).stat().st_size
        prompts = [[10 + (7 * at + 13 * row) % 900 for at in range(32)] for row in range(PROMPTS)]
        corpus = Corpus([], [], [], prompts)
        asked = Path(name, "prompts.json")
        asked.write_text(json.dumps(prompts))
        ours: list[Measured] = []
        theirs: list[dict[str, float]] = []
        for _ in range(repeats):
            theirs.append(_alone(folder, asked, threads))
            ours.append(measure("gguf-q8_0", file, corpus, threads=threads, top=1, new_tokens=NEW))
        slow = statistics.median(one["ms_per_token"] for one in theirs)
        quick = statistics.median(one.decode.ms_per_token for one in ours)
        ratios = sorted(a["ms_per_token"] / b.decode.ms_per_token for a, b in zip(theirs, ours, strict=True))
        print(
            f"| {count / 1e6:.1f}M | {4 * count / 1e6:.1f} | {size / 1e6:.1f} ({size / 4 / count:.3f}) | {slow:.2f} | "
            f"{quick:.2f} | {slow / quick:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}) | "
            f"{max(one['peak_mb'] for one in theirs):,.0f} | {max(one.peak_mb for one in ours):,.0f} |",
            flush=True,
        )


def _alone(folder: Path, prompts: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.export", "generate", str(folder), str(prompts), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def pieces(path: Path, most: int) -> list[str]:
    """Whole paragraphs of a text file, gathered up to CHARACTERS, evenly from all over it."""
    found, piece = [], ""
    for paragraph in filter(None, map(str.strip, path.read_text(encoding="utf-8").split("\n"))):
        if piece and len(piece) + len(paragraph) > CHARACTERS:
            found.append(piece)
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    return spread([*found, piece], most)


def text(model: Path, texts: Sequence[str], formats: Sequence[str], threads: int) -> None:
    """Print a row a file: bits per byte, and the difference to fp32 with its interval over documents."""
    from posttrain.lm.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    context = load_model(model).config.get_text_config().max_position_embeddings
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows, sizes = [], []
    for at, each in enumerate(texts):
        ids = tokenizer.encode(each, add_special_tokens=False)
        if len(ids) < context:
            rows.append(Row(str(at), [begin], ids))
            sizes.append(len(each.encode()))
    corpus = Corpus(rows, list(texts[:20]), [], [[begin, *rows[0].answer[:8]]])
    bits: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for each in (REFERENCE, *formats):
            path = model
            if each != REFERENCE:
                path = Path(name, each)
                write_format(each, model, path, "model")
            found = measure(each, path, corpus, threads=threads, top=1, new_tokens=8)
            bits[each] = [-sum(one.logprob for one in row.tokens) / math.log(2) for row in found.rows]
            _row(each, bits, sizes)


def _row(name: str, bits: dict[str, list[float]], sizes: Sequence[int]) -> None:
    total = sum(sizes)
    mean = sum(bits[name]) / total
    if name == REFERENCE:
        print(f"| {name} | {mean:.5f} | | |   {len(sizes)} pieces, {total:,} bytes", flush=True)
        return
    scale = len(sizes) / total  # so that the mean over pieces is bits per byte of them all
    change = cluster_bootstrap(
        [(a - b) * scale for a, b in zip(bits[name], bits[REFERENCE], strict=True)],
        [str(at) for at in range(len(sizes))],
    )
    share = change.mean * total / sum(bits[REFERENCE])
    print(
        f"| {name} | {mean:.5f} | {change.mean:+.6f} [{change.low:+.6f}, {change.high:+.6f}] | {share:+.3%} |",
        flush=True,
    )


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    fast, real, alone = (ways.add_parser(name) for name in ("speed", "text", "generate"))
    fast.add_argument("--millions", type=int, nargs="+", choices=list(SHAPES), default=list(SHAPES))
    fast.add_argument("--repeats", type=int, default=3)
    real.add_argument("model", type=Path)
    real.add_argument("file", type=Path)
    real.add_argument("--pieces", type=int, default=200)
    real.add_argument("--formats", nargs="+", default=["gguf-q8_0"])
    for each in (fast, real, alone):
        each.add_argument("--threads", type=int, default=2)
    alone.add_argument("folder", type=Path)
    alone.add_argument("prompts", type=Path)
    options: Any = parser.parse_args()
    if options.way == "generate":
        print(json.dumps(generate(options.folder, json.loads(options.prompts.read_text()), options.threads)))
        return
    if options.way == "text":
        print("| file | bits per byte | difference to fp32 | share |\n|---|---|---|---|")
        text(options.model, pieces(options.file, options.pieces), options.formats, options.threads)
        return
    print(
        "| parameters | fp32 MB | Q8_0 MB (share) | generate ms/token | Q8_0 ms/token | times | peak MB | Q8_0 peak |"
    )
    print("|" + "---|" * 8)
    for millions in options.millions:
        speed(millions, options.threads, options.repeats)


if __name__ == "__main__":
    main()
