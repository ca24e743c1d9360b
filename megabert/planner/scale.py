"""The tables of docs/results/2026-11/planning.md: the best layouts of models and devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from megabert.config.sections.shape import ModelSettings
from megabert.planner.machine import make_machine
from megabert.planner.plan import LayoutPlan, Planner
from megabert.planner.report import GB, number
from megabert.planner.settings import PlanSettings

MODELS: dict[str, ModelSettings] = {
    "bert-large": ModelSettings("bert-large"),
    "bert-1.3b": ModelSettings("bert-1.3b"),
    "bert-3.9b": ModelSettings("bert-3.9b"),
    "13B (40 layers, hidden 5120, 40 heads)": ModelSettings(
        "bert-3.9b",
        hidden_size=5120,
        num_hidden_layers=40,
        num_attention_heads=40,
        intermediate_size=20480,
    ),
}
DEVICES = ("a100-80", "h100", "h200", "b200")
COUNTS = (1, 8, 64, 1024)
PHASES: tuple[Literal[1, 2], ...] = (1, 2)


def best_plan(
    settings: PlanSettings, model: ModelSettings, device: str, count: int, phase: Literal[1, 2]
) -> LayoutPlan | None:
    """The recommended layout; None if no layout fits."""
    asked = replace(
        settings,
        model=model,
        machine=replace(settings.machine, gpu=device, gpus=count),
        recipe=replace(settings.recipe, phase=phase),
    )
    found = Planner(asked, make_machine(asked.machine)).candidates()
    return found[0] if found else None


def _wire(plan: LayoutPlan, group: str) -> str:
    chosen = [exchange for exchange in plan.exchanges if exchange.group == group]
    if not chosen:
        return "-"
    wire, seconds = sum(e.wire for e in chosen), sum(e.seconds for e in chosen)
    return f"{number(wire / GB)} GB, {number(seconds)} s"


def row(device: str, count: int, plan: LayoutPlan | None) -> str:
    """One line of a table; ``plan`` None: no layout fits."""
    cells = [device, f"{count:,}"]
    if plan is None:
        cells += ["does not fit", *[""] * 6]
    else:
        layout = plan.layout
        words = f"Z{layout.zero}"
        if layout.tensor_parallel > 1:
            words += f" T{layout.tensor_parallel}"
        if layout.activation_checkpointing:
            words += " C"
        cells += [
            words,
            f"{plan.batch.micro_size} x {plan.batch.accumulation}",
            f"{plan.peak_bytes / GB:.0f}",
            _wire(plan, "data"),
            _wire(plan, "tensor"),
            number(plan.hours),
            f"{plan.utilization:.0%}",
        ]
    return "| " + " | ".join(cells) + " |"


def tables(settings: PlanSettings) -> str:
    """Markdown: one table per model and phase, one line per kind and number of devices."""
    lines: list[str] = []
    for name, model in MODELS.items():
        for phase in PHASES:
            lines += [f"### {name}, phase {phase}", "", HEADER, "|" + "---|" * 9]
            for device in DEVICES:
                for count in COUNTS:
                    plan = best_plan(settings, model, device, count, phase)
                    lines.append(row(device, count, plan))
            lines.append("")
    return "\n".join(lines)


HEADER = (
    "| device | number | layout | micro x accumulation | peak GB | data parallel | tensor parallel "
    "| hours | MFU |"
)
