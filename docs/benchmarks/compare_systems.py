"""The systems that `compare_cpu.py` compares, and the process that each of them lives in.

    python compare_systems.py NAME FOLDER THREADS

reads `FOLDER/text.txt`, prints one line about the system, then answers each number on stdin with the figures of that
many training steps, as JSON lines.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

CONTEXT = 2048
STEP_BYTES = 8192
CHUNK = 6
VOCABULARY = 8192
PACKAGES = ("transformers", "tokenizers", "h-net-dynamic-chunking", "x-transformers", "MEGABYTE-pytorch")

Step = Callable[[bytes], dict[str, Any]]
"""Trains on 8,192 bytes of text; returns figures of that step, `seconds` if the caller's clock is not to be used."""


def hnet_system(folder: Path, model: str) -> tuple[int, Step]:
    """The training step of `hnet train`, its data pipeline included; boundaries forced to the rate of the others."""
    from hnet.bench.train import TimedTraining
    from hnet.config import load_config
    from hnet.model.accounting import count_parameters
    from hnet.training.config import RunConfig

    run = {
        "output_dir": str(folder / "run"),
        "model": model,
        "data": {"train": str(folder / "text.txt"), "sequence_length": CONTEXT},
        "training": {"global_batch_bytes": STEP_BYTES, "steps": 100_000},
    }
    training = TimedTraining(load_config(RunConfig, run), bytes_per_chunk=CHUNK)

    def step(_: bytes) -> dict[str, Any]:
        result = training.step()
        last = {name: values[-1] for name, values in training.samples.items()}
        return {
            "seconds": last["seconds"],
            "bytes": result.target_bytes,
            "mfu": last["mfu"],
            "matmul_gflops": last["peak_flops"] / 1e9,
            "gflops": last["flops_per_second"] / 1e9,
            "bytes_per_chunk": result.stages[-1].bytes_per_chunk,
            "peak_memory_mb": (training.memory.growth() or 0) / 1e6,
        }

    return count_parameters(training.config.model), step


def dynamic_chunking_system(folder: Path) -> tuple[int, Step]:
    """`h-net-dynamic-chunking` as its README wraps it, with x-transformers stacks of our model's depths.

    Before each step, and off the clock, the threshold is set to the quantile that gives chunks of 6 bytes.
    """
    import torch
    from h_net_dynamic_chunking.h_net import HNet
    from torch import nn
    from x_transformers import Decoder

    def stack(width: int, depth: int) -> Decoder:
        return Decoder(
            dim=width, depth=depth, heads=width // 64, attn_dim_head=64, rotary_pos_emb=True, attn_flash=True
        )

    network = HNet(stack(256, 2), stack(384, 4), stack(256, 2), dim=256, dim_inner=384)
    model = nn.ModuleDict({"embedding": nn.Embedding(256, 256), "network": network, "head": nn.Linear(256, 256)})
    chunker = network.dynamic_sequence_chunker
    update = _optimizer(model)

    def set_threshold(bytes_in: Any) -> float:
        """Returns the bytes per chunk that it gives."""
        with torch.no_grad():
            probs = chunker(network.encoder(model["embedding"](bytes_in)), return_intermediates=True)[1].probs
        chunker.boundary_threshold = float(torch.quantile(probs.flatten(), 1 - 1 / CHUNK))
        return probs.numel() / float((probs > chunker.boundary_threshold).sum())

    def step(text: bytes) -> dict[str, Any]:
        ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(-1, CONTEXT)
        bytes_per_chunk = set_threshold(ids[:, :-1])
        began = time.perf_counter()
        output, ratio_loss, *_ = network(model["embedding"](ids[:, :-1]))
        update(_cross_entropy(model["head"](output), ids[:, 1:]) + ratio_loss)
        return {"seconds": time.perf_counter() - began, "bytes_per_chunk": bytes_per_chunk}

    return _count(model), step


def byte_llama_system(folder: Path) -> tuple[int, Step]:
    """A `transformers` Llama on bytes."""
    model = _llama(vocab_size=256, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1024)
    update = _optimizer(model)

    def step(text: bytes) -> dict[str, Any]:
        import torch

        ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(-1, CONTEXT)
        update(_cross_entropy(model(input_ids=ids[:, :-1], use_cache=False).logits, ids[:, 1:]))
        return {}

    return _count(model), step


def token_llama_system(folder: Path, *, tied: bool) -> tuple[int, Step]:
    """A `transformers` Llama on a byte-level BPE of 8,192 tokens that was trained on the same text.

    Tied embeddings leave more of the 10M parameters to the layers: fewer, wider tables against more arithmetic.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    text = (folder / "text.txt").read_text(encoding="utf-8", errors="replace")
    tokenizer.train_from_iterator((text[start : start + 100_000] for start in range(0, len(text), 100_000)), trainer)
    sizes = (320, 6, 5, 864) if tied else (256, 7, 4, 704)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    model = _llama(vocab_size=VOCABULARY, tie_word_embeddings=tied, **dict(zip(names, sizes, strict=True)))
    update = _optimizer(model)

    def step(text: bytes) -> dict[str, Any]:
        ids = tokenizer.encode(text.decode("utf-8", errors="replace")).ids
        rows = STEP_BYTES // CONTEXT
        batch = torch.tensor(ids[: len(ids) // rows * rows]).view(rows, -1)
        update(_cross_entropy(model(input_ids=batch[:, :-1], use_cache=False).logits, batch[:, 1:]))
        return {"bytes_per_chunk": len(text) / len(ids)}

    return _count(model), step


def megabyte_system(folder: Path) -> tuple[int, Step]:
    """`MEGABYTE-pytorch` with patches of 8."""
    import torch
    from MEGABYTE_pytorch import MEGABYTE

    model = MEGABYTE(
        num_tokens=256,
        dim=(384, 256),
        depth=(4, 2),
        max_seq_len=(CONTEXT // 8, 8),
        dim_head=64,
        heads=6,
        flash_attn=True,
    )
    update = _optimizer(model)

    def step(text: bytes) -> dict[str, Any]:
        ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(-1, CONTEXT)
        update(model(ids, return_loss=True))
        return {"bytes_per_chunk": 8.0}

    return _count(model), step


SYSTEMS: dict[str, tuple[str, Callable[[Path], tuple[int, Step]]]] = {
    "hnet": ("hnet (this project)", lambda folder: hnet_system(folder, "hnet_10m")),
    "dynamic-chunking": ("h-net-dynamic-chunking", dynamic_chunking_system),
    "byte-llama": ("transformers Llama, bytes", byte_llama_system),
    "token-llama": (
        f"transformers Llama, BPE {VOCABULARY:,}, tied embeddings",
        lambda folder: token_llama_system(folder, tied=True),
    ),
    "token-llama-untied": (
        f"transformers Llama, BPE {VOCABULARY:,}, untied",
        lambda folder: token_llama_system(folder, tied=False),
    ),
    "megabyte": ("MEGABYTE-pytorch, patches of 8", megabyte_system),
}


def _llama(**sizes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(max_position_embeddings=CONTEXT, attn_implementation="sdpa", **sizes))


def _optimizer(model: Any) -> Callable[[Any], None]:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def update(loss: Any) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def _cross_entropy(logits: Any, labels: Any) -> Any:
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.flatten(0, 1), labels.flatten())


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def work(name: str, folder: Path, threads: int) -> None:
    """Answers every number on stdin with the figures of that many steps."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    answers = sys.stdout
    sys.stdout = sys.stderr
    parameters, step = SYSTEMS[name][1](folder)
    versions = {"torch": torch.__version__, **_installed()}
    print(json.dumps({"parameters": parameters, "versions": versions}), file=answers, flush=True)
    text = _texts(folder)
    for line in sys.stdin:
        figures = []
        for _ in range(int(line)):
            piece = next(text)
            began = time.perf_counter()
            result = step(piece)
            seconds = time.perf_counter() - began
            figures.append({"seconds": seconds, "bytes": len(piece)} | result)
        print(json.dumps(figures), file=answers, flush=True)


def _texts(folder: Path) -> Iterator[bytes]:
    data = (folder / "text.txt").read_bytes()
    while True:
        for start in range(0, len(data) - STEP_BYTES, STEP_BYTES):
            yield data[start : start + STEP_BYTES]


def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
