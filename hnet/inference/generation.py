"""Continuing a text, unit by unit, with the caches of every stage."""

import codecs
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hnet.data.tokenizer import ByteTokenizer, Tokenizer, is_of_bytes
from hnet.errors import ConfigError
from hnet.inference.sampling import Sampler
from hnet.segmentation.layout import LaidOut

if TYPE_CHECKING:
    from hnet.model.language_model import LanguageModel


def generate(
    model: "LanguageModel",
    prompts: Sequence[str | bytes],
    *,
    max_bytes: int = 200,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
) -> list[str]:
    """Continuations of `prompts`, without the prompts themselves; what is not valid UTF-8 becomes U+FFFD.

    Args:
        max_bytes: longest continuation; it ends earlier where the model ends the document (EOS).
        temperature: 0 always takes the likeliest byte.
        top_p: sample from the likeliest bytes whose probabilities reach this sum.
        seed: prompt i draws with `seed + i`, whatever the other prompts are.
        tokenizer: of a model that reads tokens; None for bytes.
    Raises:
        ConfigError: a sampling setting out of range, a token model without its tokenizer, or a model that sees later
            units than the one it is at.
        DataError: a prompt with a byte that separates chunks in this model.
    """
    if isinstance(prompts, (str, bytes)):
        raise ConfigError("prompts is one text: give a list of texts")
    return [
        "".join(
            stream(
                model,
                prompt,
                max_bytes=max_bytes,
                temperature=temperature,
                top_p=top_p,
                seed=seed + index,
                tokenizer=tokenizer,
            )
        )
        for index, prompt in enumerate(prompts)
    ]


def stream(
    model: "LanguageModel",
    prompt: str | bytes,
    *,
    max_bytes: int = 200,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
) -> Iterator[str]:
    """The continuation of one prompt as it is made, in pieces of whole characters. Settings as in `generate`."""
    if not model.config.is_causal:
        raise ConfigError(
            f"the model cannot continue a text: its objective is {model.config.objective.type}, and it may see later "
            "units (mask `bidirectional`); generate with a model of the objective next_unit"
        )
    tokenizer = tokenizer or ByteTokenizer()
    if model.config.vocab_size < tokenizer.vocab_size or (
        isinstance(tokenizer, ByteTokenizer) and not is_of_bytes(model.config.vocab_size)
    ):
        raise ConfigError(
            f"the model has a vocabulary of {model.config.vocab_size}, the tokenizer one of {tokenizer.vocab_size}: "
            "give the tokenizer that the model was trained with"
        )
    sampler = Sampler(temperature=temperature, top_p=top_p, seed=seed)
    ids = stream_ids(
        model,
        tokenizer.encode(prompt, bos=True),
        sampler,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        num_ids=tokenizer.vocab_size,
    )
    if isinstance(tokenizer, ByteTokenizer):
        return _stream_bytes(ids, max_bytes)
    return _stream_tokens(ids, tokenizer, max_bytes)


def stream_ids(
    model: "LanguageModel",
    prompt: Sequence[int],
    sampler: Sampler,
    *,
    bos: int,
    eos: int,
    num_ids: int | None = None,
) -> Iterator[int]:
    """Ids after `prompt` (which begins with BOS), without end unless the model gives EOS, which is left out.

    The prompt runs through the model once; each further id costs one cached step. So does each separator of chunks,
    which the model chooses or its layout dictates; these are left out too. Ids from `num_ids` on are never
    chosen. Raises DataError if the prompt holds a separator.
    """
    laid_out = model.layout().lay_out(np.array(prompt, dtype=np.int64))
    never = [] if bos == eos else [bos]
    if num_ids is not None:
        never += range(num_ids, model.config.vocab_size)
    return _continued(model, laid_out, sampler, never, eos)


def _continued(
    model: "LanguageModel", laid_out: LaidOut, sampler: Sampler, never: Sequence[int], eos: int
) -> Iterator[int]:
    """`never`: units that are no target in training, so that their logits mean nothing."""
    device = next(model.parameters()).device
    layout = model.layout()
    tracker = layout.tracker()
    for unit in laid_out.ids.tolist():
        tracker.push(unit)
    cache = model.new_cache(1)
    cu_seqlens = torch.tensor([0, len(laid_out.ids)], dtype=torch.int32, device=device)
    marks = None if laid_out.marks is None else torch.from_numpy(laid_out.marks).to(device)
    logits = model.prefill(torch.from_numpy(laid_out.ids).to(device), cu_seqlens, cache, marks).logits[-1]
    while True:
        unit = tracker.forced()
        if unit is None:
            unit = sampler(_without(logits, [*never, *tracker.excluded()]))
            if unit == eos:
                return
            if unit not in layout.separators:
                yield unit
        code = tracker.push(unit)
        marks = None if laid_out.marks is None else torch.tensor([code], dtype=torch.uint8, device=device)
        logits = model.step(torch.tensor([unit], device=device), cache, marks=marks)[0][0]


def _without(logits: Tensor, ids: Sequence[int]) -> Tensor:
    return logits.index_fill(0, torch.tensor(ids, dtype=torch.int64, device=logits.device), float("-inf"))


def _stream_bytes(ids: Iterator[int], max_bytes: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for _, unit in zip(range(max_bytes), ids, strict=False):
        if text := decoder.decode(bytes([unit])):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def _stream_tokens(ids: Iterator[int], tokenizer: Tokenizer, max_bytes: int) -> Iterator[str]:
    """Text is held back while it ends in U+FFFD: the next token may complete the character."""
    taken: list[int] = []
    shown = ""
    for unit in ids:
        text = tokenizer.decode([*taken, unit])
        if len(text.encode()) > max_bytes:
            break
        taken.append(unit)
        if not text.endswith("\ufffd") and text.startswith(shown):
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.decode(taken)[len(shown) :]:
        yield rest
