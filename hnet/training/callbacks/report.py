"""The end of a run: what it reached, where the curves are, a sample, and held-out text with its chunks."""

import json
import sys
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.rule import Rule

from hnet.data.tokenizer import ByteTokenizer, load_tokenizer
from hnet.data.validation import validation_batches
from hnet.evaluation.measures import HELD_OUT, main_measure, shown, title
from hnet.training.callbacks.base import Callback
from hnet.training.callbacks.metrics_file import NAME
from hnet.training.run import Run

if TYPE_CHECKING:
    from hnet.model.language_model import LanguageModel

PARAGRAPH_BYTES = 600


class Report(Callback):
    """Reads the last checkpoint back, as any user of the result will, and needs no weights of a sharded engine."""

    def on_end(self, run: Run) -> None:
        from hnet.inspect.boundaries import collect_boundaries
        from hnet.inspect.html import render_html
        from hnet.inspect.terminal import print_boundaries
        from hnet.model.loading import load

        checkpoint = run.checkpoints.latest()
        assert checkpoint is not None, "a finished run has a checkpoint"
        model = load(checkpoint)
        console = RichConsole(file=sys.stdout)
        self._figures(run, console)
        if run.config.logging.sample_prompt is not None:
            self._sample(run, model, console)
        if run.config.data.validation and run.config.data.tokenizer == "bytes" and len(model.config.stages) > 1:
            console.print(Rule("held-out text in its chunks"))
            boundaries = collect_boundaries(model, held_out_paragraph(run))
            print_boundaries(boundaries, console)
            page = run.output_dir / "boundaries.html"
            page.write_text(render_html(boundaries, title="Held-out text in its chunks"), encoding="utf-8")
            console.print(f"the same as a page: {page}", highlight=False, soft_wrap=True)
        console.print(Rule())
        console.print(f"checkpoint: {checkpoint}", highlight=False, soft_wrap=True)
        console.print(f"learning curves: {run.output_dir / 'curves.png'}", highlight=False, soft_wrap=True)

    def _figures(self, run: Run, console: RichConsole) -> None:
        row = json.loads((run.output_dir / NAME).read_text(encoding="utf-8").splitlines()[-1])
        console.print(Rule(f"trained {row['step']} steps, {row['bytes_seen']:,} bytes"))
        if held_out := shown(row, HELD_OUT):
            console.print(f"held-out {title(main_measure(row))}: {''.join(held_out)}", highlight=False)

    def _sample(self, run: Run, model: "LanguageModel", console: RichConsole) -> None:
        from hnet.inference.generation import generate

        settings = run.config.logging
        tokenizer = None if run.config.data.tokenizer == "bytes" else load_tokenizer(run.config.data.tokenizer)
        prompt = settings.sample_prompt or ""
        (text,) = generate(
            model,
            [prompt],
            max_bytes=settings.sample_bytes,
            temperature=settings.sample_temperature,
            seed=run.config.training.seed,
            tokenizer=tokenizer,
        )
        console.print(Rule("a sample"))
        console.print(f"[bold]{escape(prompt)}[/bold]{escape(text)}", highlight=False)


def held_out_paragraph(run: Run, num_bytes: int = PARAGRAPH_BYTES) -> bytes:
    """Up to `num_bytes` from the beginning of the held-out text's first document, cut at a line end if there is one."""
    (batch,) = islice(validation_batches(run.config.data), 1)
    first_document = batch.input_ids[: int(batch.cu_seqlens[1])]
    text = ByteTokenizer().decode_bytes(first_document.tolist())[:num_bytes]
    last_line_end = text.rfind(b"\n")
    return text[:last_line_end] if last_line_end > num_bytes // 2 else text
