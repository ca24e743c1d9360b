"""A plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megabert.config.model import ModelConfig
from megabert.model.encoder import variant_of
from megabert.optim.registry import optimizer_specs
from megabert.planner import activations, machine, recipe, timing
from megabert.planner.plan import LayoutPlan
from megabert.planner.states import INSTANTS

GB = 1e9


def size(number: float) -> str:
    """Bytes in GB (10^9), or in MB below 0.1 GB."""
    return f"{number / GB:.2f} GB" if number >= 0.1 * GB else f"{number / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Seconds as us, ms, s or h."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (600.0, 1.0, "s")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def number(value: float) -> str:
    """Three significant digits without an exponent, with thousands separators: 0.0123, 4.56, 1,230."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def layout_words(of: LayoutPlan) -> str:
    """``ZeRO 1, tensor parallel 2 with sequence parallelism``."""
    layout = of.layout
    words = [f"ZeRO {layout.zero}"]
    if layout.tensor_parallel > 1:
        also = " with sequence parallelism" if layout.sequence_parallel else ""
        words.append(f"tensor parallel {layout.tensor_parallel}{also}")
    if layout.activation_checkpointing:
        words.append("activation checkpointing")
    if of.rounds_sums:
        words.append(f"gradients summed in {of.precision}")
    return ", ".join(words)


def as_json(of: LayoutPlan, best: LayoutPlan | None) -> dict[str, Any]:
    """The whole plan as plain values; sizes in bytes, times in seconds."""
    layout, recipe = of.layout, of.recipe
    return {
        "model": {"name": of.model.name, "parameters_a_rank": of.parameters.total},
        "machine": {"device": of.machine.name, "devices": of.devices, "limit_bytes": of.limit},
        "layout": {
            "zero": layout.zero,
            "tensor_parallel": layout.tensor_parallel,
            "sequence_parallel": layout.sequence_parallel,
            "data_parallel": of.batch.data_parallel,
            "activation_checkpointing": layout.activation_checkpointing,
            "packing": layout.packing == "on",
            "precision": of.precision,
        },
        "recipe": {
            "phase": recipe.phase,
            "seq_length": recipe.length,
            "global_batch_size": recipe.global_batch,
            "steps": recipe.steps,
        },
        "batch": {
            "micro_batch_size": of.batch.micro_size,
            "gradient_accumulation_steps": of.batch.accumulation,
            "largest_micro_batch_size": of.largest,
        },
        "memory": {
            "instants": of.memory,
            "peak_bytes": of.peak_bytes,
            "fits": of.fits,
        },
        "exchanges": [vars(exchange) for exchange in of.exchanges],
        "time": {
            "parts_seconds": of.times,
            "step_seconds": of.step_seconds,
            "hours": of.hours,
            "limited_by": of.limited_by,
        },
        "stages": [
            {
                "updates": stage.updates,
                "global_batch_size": stage.recipe.global_batch,
                "seq_length": stage.recipe.length,
                "micro_batch_size": stage.batch.micro_size,
                "peak_bytes": stage.peak_bytes,
                "step_seconds": stage.seconds,
            }
            for stage in of.stages
        ],
        "real_tokens": of.real_tokens,
        "mfu": of.utilization,
        "recommended": None
        if best is None
        else {
            "zero": best.layout.zero,
            "tensor_parallel": best.layout.tensor_parallel,
            "sequence_parallel": best.layout.sequence_parallel,
            "activation_checkpointing": best.layout.activation_checkpointing,
            "micro_batch_size": best.batch.micro_size,
            "hours": best.hours,
        },
    }


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows aligned: the first column left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _memory(of: LayoutPlan) -> list[str]:
    names = list(dict.fromkeys(name for instant in INSTANTS for name in of.memory[instant]))
    rows = [["memory per rank", *INSTANTS]]
    for name in names:
        values = [of.memory[instant].get(name, 0.0) for instant in INSTANTS]
        if any(values):
            rows.append([f"  {name}", *(size(value) if value else "-" for value in values)])
    totals = [sum(of.memory[instant].values()) for instant in INSTANTS]
    rows.append(["  total", *(size(total) for total in totals)])
    return _columns(rows)


def _exchanges(of: LayoutPlan) -> list[str]:
    if not of.exchanges:
        return []
    rows = [["communication per update", "ranks", "times", "tensors", "sent per rank", "time"]]
    rows += [
        [
            f"  {e.what}: {e.kind} ({e.group} parallel)",
            str(e.ranks),
            f"{e.times:,}",
            size(e.size),
            size(e.wire),
            duration(e.seconds),
        ]
        for e in of.exchanges
    ]
    return ["", *_columns(rows)]


def _times(of: LayoutPlan) -> list[str]:
    rows = [["time per update", "", "fraction"]]
    for name, seconds in of.times.items():
        if seconds:
            rows.append([f"  {name}", duration(seconds), f"{seconds / of.step_seconds:.1%}"])
    rows.append(["  total", duration(of.step_seconds), ""])
    return _columns(rows)


def _stages(of: LayoutPlan) -> list[str]:
    """A row per stage of a run with ramps."""
    if len(of.stages) == 1:
        return []
    rows = [["stages", "batch", "tokens", "micro batch", "updates", "per update", "memory", "time"]]
    rows += [
        [
            f"  {number}",
            f"{stage.recipe.global_batch:,}",
            str(stage.recipe.length),
            str(stage.batch.micro_size),
            f"{stage.updates:,}",
            duration(stage.seconds),
            size(stage.peak_bytes),
            duration(stage.seconds * stage.updates),
        ]
        for number, stage in enumerate(of.stages, start=1)
    ]
    return [
        *_columns(rows),
        "The tables below are of the last stage; memory of the one that needs most.",
        "",
    ]


def as_text(of: LayoutPlan, best: LayoutPlan | None) -> str:
    """The plan as tables of plain text."""
    recipe, batch = of.recipe, of.batch
    verdict = "fits" if of.fits else "DOES NOT FIT"
    lines = [
        f"{of.model.name}, {of.parameters.total:,} parameters per rank; {of.devices} x "
        f"{of.machine.name}; {layout_words(of)}; {of.precision}; packing {of.layout.packing}",
        f"phase {recipe.phase}: {recipe.length} tokens per sequence, {recipe.global_batch:,} sequences "
        f"per update, {recipe.steps:,} updates, {of.real_tokens / 1e9:.4g} billion real tokens",
        f"micro batch {batch.micro_size} x accumulation {batch.accumulation} x data parallel "
        f"{batch.data_parallel}; largest micro batch that fits: {of.largest}",
        "",
        *_stages(of),
        *_memory(of),
        f"  peak {size(of.peak_bytes)} of {size(of.limit)} available per rank: {verdict}",
        *_exchanges(of),
        "",
        *_times(of),
        f"  {of.hours:.4g} hours, {number(recipe.global_batch / of.step_seconds)} sequences/s, "
        f"MFU {of.utilization:.1%}; limited by {of.limited_by}",
        "",
        advice(of, best),
    ]
    return "\n".join(lines)


def advice(of: LayoutPlan, best: LayoutPlan | None) -> str:
    """One line: what to change, and what it gains."""
    if best is None:
        held = {k: v for k, v in of.memory["update"].items() if v}
        largest = max(held, key=lambda name: held[name])
        return (
            f"advice: no layout with ZeRO 0-3 and tensor parallel 1-8 fits {of.devices} x "
            f"{of.machine.name}; the largest part of the update's memory is {largest}, "
            f"{size(held[largest])} per rank: use more or larger devices"
        )
    return f"advice: {_layout_advice(of, best)}{_loader_advice(of)}"


def _layout_advice(of: LayoutPlan, best: LayoutPlan) -> str:
    words = f"{layout_words(best)}: micro batch {best.batch.micro_size}, {best.hours:.4g} hours"
    if not of.fits:
        return f"use {words}"
    if best.hours >= of.hours * 0.98:
        return "no other layout is more than 2 % faster"
    return f"{words} is {1 - best.hours / of.hours:.0%} faster"


def _loader_advice(of: LayoutPlan) -> str:
    """What to change if samples are late; on a CPU, workers would take cores from the model."""
    if of.waiting_for_data < 0.02 or of.machine.is_cpu:
        return ""
    return (
        f"; waiting for data is {of.waiting_for_data:.0%} of the time, and none with --loader-workers "
        f"{of.workers_needed} on as many cores per rank"
    )


def verbose(model: ModelConfig) -> str:
    """Every constant of a plan for ``model``, and its source."""
    rows = [
        ["constant", "value"],
        *([f"  efficiency, {p}", f"{value}"] for p, value in machine.EFFICIENCY.items()),
        ["  efficiency, CPU", f"{machine.CPU_EFFICIENCY}"],
        ["  fraction of a link's bandwidth", f"{machine.LINK_EFFICIENCY}"],
        ["  fraction of the memory bandwidth", f"{machine.MEMORY_EFFICIENCY}"],
        *([f"  latency per hop, {k}", duration(v)] for k, v in machine.LATENCY.items()),
        ["  link between processes on a CPU", f"{size(machine.CPU_LINK)}/s"],
        ["  framework, GPU", size(machine.FRAMEWORK_GPU)],
        ["  framework, CPU", size(machine.IMPORTS_CPU + machine.RUN_CPU)],
        ["  padding, short and long", f"{recipe.PADDING_SHORT}, {recipe.PADDING_LONG}"],
        ["  largest packed micro batch", f"{recipe.PACKED_BALANCE} of the mean"],
        *([f"  {s.name}, bytes per parameter", f"{s.moved_bytes}"] for s in optimizer_specs()),
        *([f"  cast to fp8, {k}, bytes per element", f"{v}"] for k, v in timing.CAST_BYTES.items()),
        *([f"  host, {k}, per layer", duration(v)] for k, v in timing.HOST_SECONDS.items()),
        *(
            [f"  samples/s per core at {k} tokens, {name}", f"{value:,.0f}"]
            for k, speed in timing.LOADER.items()
            for name, value in speed._asdict().items()
        ),
    ]
    saved = [["saved for backward, values per token and layer", "H", "I", "heads"]]
    saved += [
        [f"  {s.what}", str(s.hidden), str(s.inner), str(s.heads)]
        for s in variant_of(model).saved_for_backward
    ]
    texts = [str(module.__doc__).strip() for module in (machine, activations, timing)]
    return "\n\n".join(["\n".join(_columns(rows)), "\n".join(_columns(saved)), *texts])
