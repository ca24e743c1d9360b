"""A figure of statistics of shards: three panels in a PNG file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from megabert.common.errors import UserError, printable
from megabert.common.files import new_file, output_file
from megabert.common.storage import named_storage_errors
from megabert.data.inspect.statistics import Statistics


def check_plot(path: Path) -> None:
    """Raise ``UserError`` if no plot could be written: wrong name, no folder, no matplotlib."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--plot {path}: the file's name must end in .png")
    if not path.parent.is_dir():
        raise UserError(f"--plot {path}: there is no folder {path.parent}")
    with named_storage_errors(path):
        output_file(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib (the extra plots): pip install -e '.[plots]'")


def write_plot(path: Path, title: str, statistics: Statistics) -> None:
    """Plot document lengths, tokens per shard, and token frequency by rank (Zipf).

    The file appears whole or not at all. It needs the extra ``plots``, but no display.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(title))
    documents, shards, frequency = figure.subplots(1, 3)

    bins = statistics.documents.histogram()
    edges = [first for first, _, _ in bins] + [beyond for _, beyond, _ in bins[-1:]]
    documents.stairs([count for _, _, count in bins], edges, fill=True)
    documents.set_xscale("log", base=2)
    documents.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    documents.set(title="Length of documents", xlabel="tokens", ylabel="documents")

    numbers = np.arange(len(statistics.shard_tokens) + 1) - 0.5
    shards.stairs(np.array(statistics.shard_tokens) / 1e6, numbers, fill=True)
    shards.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    shards.set(title="Size of shards", xlabel="shard", ylabel="million tokens")

    by_rank = statistics.vocabulary.by_rank()
    frequency.loglog(np.arange(1, len(by_rank) + 1), by_rank)
    frequency.set(title="Frequency of tokens", xlabel="rank", ylabel="occurrences")

    with named_storage_errors(path), new_file(output_file(path), unique=True) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
