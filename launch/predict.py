#!/usr/bin/env python
"""Answer new inputs with a fine-tuned model, or fill the masks of a text with a pretrained one.

    python launch/predict.py --checkpoint runs/squad --question "Who met Bob?" --context "Ann met Bob."
    python launch/predict.py --checkpoint runs/squad2 --input dev-v2.0.json --format squad --output predictions.json
    python launch/predict.py --checkpoint runs/sst2 --input reviews.txt --output labels.jsonl
    python launch/predict.py --checkpoint runs/cluener --text "..."
    python launch/predict.py --checkpoint runs/bert-large-phase2 --text "The capital of France is [MASK]." --top-k 3
    python launch/predict.py --checkpoint runs/squad            (interactive on a terminal; Ctrl-D exits)

The task, its labels and its lengths come from the checkpoint. The output has one JSON line per input, in the
same order. All inputs are checked before the first one is answered. It runs in one process, on a GPU if there
is one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.log import run_command
from megabert.config.command_line import add_device_flags, require_path
from megabert.config.flags import plain_parser
from megabert.config.numbers import Count, Fraction, Size
from megabert.config.values import ValueReader, utf8_path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = plain_parser("predict.py", __doc__)
    model = made.add_argument_group("model")
    model.add_argument(
        "--checkpoint",
        type=utf8_path,
        required=True,
        metavar="DIR",
        help="fine-tuning run or its final/, pretraining run or checkpoint, megabert folder, or Hugging "
        "Face BERT folder with a head",
    )
    model.add_argument(
        "--task",
        metavar="NAME",
        help="task of the model (default: the checkpoint's; for a Hugging Face folder, the one that fits "
        "its head and labels)",
    )
    model.add_argument(
        "--max-length",
        type=ValueReader(Size),
        metavar="N",
        help="tokens per row, at most (default: the checkpoint's)",
    )
    model.add_argument(
        "--null-threshold",
        type=ValueReader(float),
        metavar="X",
        help="squad2: give no answer where no answer scores this much more than the best one (default: the "
        "checkpoint's)",
    )
    model.add_argument(
        "--threshold",
        type=ValueReader(Fraction),
        metavar="X",
        help="classify with several labels per text: probability from which a label is given (default: the "
        "checkpoint's)",
    )
    add_device_flags(model, "precision of the computation")
    model.add_argument(
        "--batch-size",
        type=ValueReader(Count),
        default=32,
        metavar="N",
        help="rows that are computed at once (default: 32)",
    )
    inputs = made.add_argument_group("input")
    inputs.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="file of inputs; - reads standard input to its end",
    )
    inputs.add_argument(
        "--input-format",
        choices=("auto", "jsonl", "text", "tsv", "squad"),
        default="auto",
        help="jsonl: objects with the field names of the task's files; text: one text per line; tsv: one "
        "column per text, or columns named in the first line; squad: a SQuAD file (default: auto, "
        "detected from name and content)",
    )
    inputs.add_argument("--text", metavar="TEXT", help="one text")
    inputs.add_argument("--text-b", metavar="TEXT", help="the second text of a pair")
    inputs.add_argument("--question", metavar="TEXT", help="a question; needs --context")
    inputs.add_argument("--context", metavar="TEXT", help="the text that contains the answer")
    output = made.add_argument_group("output")
    output.add_argument(
        "--output",
        type=Path,
        default=Path("-"),
        metavar="FILE",
        help="file to write (default: -, standard output)",
    )
    output.add_argument(
        "--format",
        choices=("jsonl", "squad"),
        default="jsonl",
        help="squad: one object of question ids and answers, as evaluation scripts read it (default: jsonl)",
    )
    output.add_argument(
        "--top-k",
        type=ValueReader(Count),
        metavar="N",
        help="number of answers, labels or words to list (default: the best answer, all labels, 5 words)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = parser().parse_args(arguments)
    require_path("--checkpoint", given.checkpoint)
    if given.input is not None and str(given.input) != "-":
        require_path("--input", given.input)
    # torch is imported only now
    from megabert.predict.command import Request, predict
    from megabert.predict.predictor import AnswerOptions

    choices = ("task", "batch_size", "top_k", "max_length", "device", "precision")
    of_tasks = {name: getattr(given, name) for name in ("null_threshold", "threshold")}
    settings = {name: value for name, value in of_tasks.items() if value is not None}
    texts = ("text", "text_b", "question", "context")
    predict(
        Request(
            given.checkpoint,
            AnswerOptions(**{name: getattr(given, name) for name in choices}, settings=settings),
            {name: getattr(given, name) for name in texts},
            given.input,
            given.output,
            given.input_format,
            given.format,
        )
    )
    return 0


if __name__ == "__main__":
    run_command(main)
