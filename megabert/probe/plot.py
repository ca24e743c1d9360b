"""A figure of probes: one panel per task, a line per run over its tokens or updates."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabert.common.errors import printable
from megabert.common.files import new_file, output_file
from megabert.common.log import get_logger
from megabert.common.storage import named_storage_errors
from megabert.probe.results import PERPLEXITY_METRIC, Row
from megabert.probe.task_file import Probe

COLUMNS = 3


def write_probe_plot(path: Path, rows: Sequence[Row], tasks: Sequence[Probe], over: str) -> None:
    """Draw the mean scores with their deviations; without matplotlib only log how to get it.

    Args:
        over: ``tokens`` or ``updates``.
    """
    if importlib.util.find_spec("matplotlib") is None:
        get_logger().info(
            "no plot: it needs matplotlib (the extra plots): pip install -e '.[plots]'"
        )
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(COLUMNS, len(tasks))
    down = math.ceil(len(tasks) / across)
    figure = Figure(figsize=(1 + 4.2 * across, 0.6 + 3.4 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel, task in zip(panels, tasks):
        _draw(panel, task.name, rows, over)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    with (
        named_storage_errors(path),
        new_file(output_file(path), unique=True) as temporary,
        warnings.catch_warnings(),
    ):
        # Letters that its font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _draw(panel: Any, name: str, rows: Sequence[Row], over: str) -> None:
    """One task: a line per run, and horizontal lines for folders and random weights."""
    from matplotlib.ticker import StrMethodFormatter

    scale, unit = (1e6, "million tokens") if over == "tokens" else (1, "updates")
    metric = next((row.scores[name].metric for row in rows if row.scores[name].metric), "")
    for number, run in enumerate(dict.fromkeys(row.model.run for row in rows)):
        color = f"C{number % 10}"
        points = []
        for row in (row for row in rows if row.model.run == run):
            score, place = (
                row.scores[name],
                row.model.tokens if over == "tokens" else row.model.step,
            )
            if score.mean is None:
                continue
            if row.random:
                label = f"random weights ({printable(run)})"
                panel.axhline(score.mean, color=color, linestyle=":", label=label)
            elif place is None:
                panel.axhline(score.mean, color=color, linestyle="--", label=printable(row.name))
            else:
                points.append((place / scale, score.mean, score.deviation or 0.0))
        if points:
            places, means, deviations = zip(*sorted(points))
            panel.errorbar(
                places, means, yerr=deviations, color=color, marker="o", markersize=4,
                capsize=3, label=printable(run),
            )  # fmt: skip
    if metric == PERPLEXITY_METRIC:
        panel.set_yscale("log")
        for axis in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            axis(StrMethodFormatter("{x:,.0f}"))
    panel.set(title=printable(name), xlabel=unit, ylabel=metric.replace("_", " "))
    panel.set_xlim(left=0)
    panel.grid(alpha=0.3, which="both")
