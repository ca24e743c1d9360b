#!/usr/bin/env python
"""One optimizer step on BERT's tensors: ours compared with torch's AdamW and other LAMBs, with the floor.

    python benchmarks/lamb.py [--models bert-base,bert-large] [--rounds 7] [--json FILE]

Each contender updates the same tensors from the same gradients, in fp32, with the decay of biases and
norms off, in one process, interleaved round by round; medians. Contenders that cannot run here say
why. "flat" is what ZeRO hands out (one slice per parameter group), "tensors" what training without it
has.

Bytes are what the algorithm must move: AdamW 28 a parameter (g, p, m, v in; p, m, v out), a LAMB in
two passes 40; the floor is a copy of the same number of bytes, measured in the same rounds. A step's
"x floor" is its time over the time that the copy takes for 28 bytes per parameter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.errors import UserError
from megabert.config.model import model_config
from megabert.model.heads import BertForPreTraining
from megabert.optim.flat_segments import LocalTensor, Partition, PartitionTable
from megabert.optim.lamb.apex import apex_lamb
from megabert.optim.lamb.backend import LambOptions
from megabert.optim.lamb.choice import choose_backend
from megabert.optim.lamb.optimizer import Lamb
from megabert.optim.param_groups import parameter_groups
from megabert.optim.registry import StateLayout

LR, EPS, DECAY, BETAS = 1e-4, 1e-6, 0.01, (0.9, 0.999)


@dataclass
class Contender:
    """A step to be timed and the bytes per parameter that it must move."""

    name: str
    step: Callable[[], Any]
    bytes: int


@dataclass
class Memory:
    """One parameter group's weights, gradients and moments, flat [n] each, and the tensors in them.

    All contenders work on the same memory, so that BERT-large fits a small machine.
    """

    names: list[str]
    shapes: list[torch.Size]
    weight_decay: float
    adapt: bool
    flats: dict[str, Tensor]

    @property
    def numels(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    def flat(self) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """The group as one slice, and its moments."""
        moments = {key: self.flats[key] for key in ("exp_avg", "exp_avg_sq")}
        return [self._parameter(self.flats["weight"], self.flats["grad"])], [moments]

    def tensors(self) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """The group tensor by tensor, and the moments of each."""
        views = {
            key: [v.view(s) for v, s in zip(flat.split(self.numels), self.shapes)]
            for key, flat in self.flats.items()
        }
        parameters = [self._parameter(p, g) for p, g in zip(views["weight"], views["grad"])]
        moments = zip(views["exp_avg"], views["exp_avg_sq"])
        return parameters, [{"exp_avg": m, "exp_avg_sq": v} for m, v in moments]

    @staticmethod
    def _parameter(weight: Tensor, grad: Tensor) -> Tensor:
        parameter = weight.detach()
        parameter.grad = grad
        return parameter


def bert_memory(model: str, device: torch.device) -> list[Memory]:
    """The model's parameter groups with weights and gradients of usual sizes, on ``device``."""
    with torch.device("meta"):
        whole = BertForPreTraining(model_config(model))
    memory = []
    for group in parameter_groups(whole, DECAY):
        shapes = [parameter.shape for parameter in group["params"]]
        total = sum(shape.numel() for shape in shapes)
        flats = {
            "weight": torch.randn(total, device=device).mul_(0.02),
            "grad": torch.randn(total, device=device).mul_(1e-4),
            "exp_avg": torch.zeros(total, device=device),
            "exp_avg_sq": torch.zeros(total, device=device),
        }
        memory.append(Memory(group["names"], shapes, group["weight_decay"], group["adapt"], flats))
    return memory


def optimizer_over(
    memory: list[Memory], make: Callable[[list[dict[str, Any]]], Any], *, flat: bool, step: Any
) -> Any:
    """``make`` of the groups, with the shared moments and a step count of 1 in its state."""
    groups, states = [], []
    for part in memory:
        parameters, moments = part.flat() if flat else part.tensors()
        groups.append(
            {"params": parameters, "weight_decay": part.weight_decay, "adapt": part.adapt}
        )
        states += list(zip(parameters, moments))
    optimizer = make(groups)
    for parameter, moments in states:
        optimizer.state[parameter] = {"step": step(), **moments}
    return optimizer


def segments_of(memory: list[Memory], optimizer: Lamb) -> PartitionTable:
    """What lies in the optimizer's slices."""
    table = []
    for part, group in zip(memory, optimizer.param_groups):
        numels = part.numels
        starts = [sum(numels[:number]) for number in range(len(numels))]
        tensors = [LocalTensor(name, (numel,)) for name, numel in zip(part.names, numels)]
        partition = Partition.of_group(tensors, starts, 0, sum(numels))
        table.append((group["params"][0], partition))
    return PartitionTable(table, None, flat=True)


def without_adapt(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups as other optimizers know them."""
    return [{key: group[key] for key in ("params", "weight_decay")} for group in groups]


class PlainLamb(torch.optim.Optimizer):
    """The rule as it is usually written: a Python loop over tensors, norms waited for."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] += 1
                m, v, t = state["exp_avg"], state["exp_avg_sq"], state["step"]
                m.mul_(BETAS[0]).add_(p.grad, alpha=1 - BETAS[0])
                v.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
                u = (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)).sqrt().add_(EPS))
                ratio = 1.0
                if group["weight_decay"]:
                    u.add_(p, alpha=group["weight_decay"])
                    weight, update = p.norm().item(), u.norm().item()
                    ratio = weight / update if weight > 0 and update > 0 else 1.0
                p.add_(u, alpha=-LR * ratio)


def contenders(memory: list[Memory], device: torch.device) -> list[Contender]:
    """Every contender that runs here; for the others the reason why it does not run."""
    found = []

    def add(name: str, make: Any, moved: int, *, flat: bool = False, step: Any = lambda: 1) -> Any:
        optimizer = optimizer_over(memory, make, flat=flat, step=step)
        found.append(Contender(name, optimizer.step, moved))
        return optimizer

    for rule, moved in (("lamb", 40), ("lans", 48), ("adamw", 28)):
        for backend in ("torch", "triton"):
            try:
                chosen = choose_backend(backend, device)  # type: ignore[arg-type]
            except UserError as error:
                if rule == "lamb":
                    print(f"left out: megabert by {backend}: {error}")
                continue
            make = partial(Lamb, options=LambOptions(lr=LR, eps=EPS, rule=rule), backend=chosen)  # type: ignore[arg-type]
            name = f"megabert {rule}, {{}}, {backend}"
            ours = add(
                name.format("flat"), partial(make, overwrite_gradients=True), moved, flat=True
            )
            ours.attach(segments_of(memory, ours))
            if rule == "lamb":
                add(name.format("tensors"), make, moved)
    for kind in ("foreach", "fused"):
        options = {"lr": LR, "eps": EPS, "betas": BETAS, kind: True}
        add(
            f"torch AdamW, tensors, {kind}",
            lambda groups, options=options: torch.optim.AdamW(without_adapt(groups), **options),
            28,
            step=lambda: torch.ones((), device=device),
        )
    add("plain LAMB, a loop over tensors", lambda g: PlainLamb(without_adapt(g), {"lr": LR}), 40)
    for name, peer in (("DeepSpeed FusedLamb", deepspeed_lamb), ("apex FusedLAMB", nvidia_lamb)):
        try:
            add(f"{name}, tensors", peer, 40)
        except Exception as error:  # a peer's build can fail in any way
            print(f"left out: {name}: {' '.join(str(error).split())[:160]}")
    return found


def deepspeed_lamb(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if groups[0]["params"][0].device.type != "cuda":
        raise RuntimeError("its kernel is CUDA only")
    from deepspeed.ops.lamb import FusedLamb

    return FusedLamb(without_adapt(groups), lr=LR, eps=EPS, betas=BETAS)


def nvidia_lamb(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return apex_lamb(groups, LambOptions(lr=LR, betas=BETAS, eps=EPS), StateLayout())


def timed(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def floor_step(memory: list[Memory]) -> Callable[[], None]:
    """Copies that read and write 28 bytes per parameter in all (four of 8 bytes, the last one half)."""
    pairs = []
    for part in memory:
        target, source = part.flats["exp_avg"], part.flats["exp_avg_sq"]
        pairs += [(target, source)] * 3
        half = target.numel() // 2
        pairs.append((target[:half], source[:half]))

    def copy() -> None:
        for target, source in pairs:
            target.copy_(source)

    return copy


def measure(model: str, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    memory = bert_memory(model, device)
    total = sum(sum(part.numels) for part in memory)
    field = contenders(memory, device)
    field.append(Contender("floor: copies of 28 bytes per parameter", floor_step(memory), 28))
    times: dict[str, list[float]] = {one.name: [] for one in field}
    for _ in range(2):
        for one in field:
            one.step()
    for _ in range(rounds):
        for one in field:
            times[one.name].append(timed(one.step, device))
    floor = statistics.median(times[field[-1].name])
    adamw = statistics.median(times["torch AdamW, tensors, fused"])
    print(
        f"\n{model}: {total / 1e6:.1f} M parameters, {device.type}, {torch.get_num_threads()} threads"
    )
    print("| step | ms | GB/s | x floor | x fused AdamW |\n|---|---|---|---|---|")
    rows = []
    for one in field:
        median = statistics.median(times[one.name])
        row = {
            "model": model,
            "name": one.name,
            "ms": median * 1e3,
            "gb_per_second": one.bytes * total / median / 1e9,
            "times_floor": median / floor,
            "times_adamw": median / adamw,
        }
        rows.append(row)
        print(
            f"| {one.name} | {row['ms']:.1f} | {row['gb_per_second']:.1f} | "
            f"{row['times_floor']:.2f} | {row['times_adamw']:.2f} |",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="bert-base,bert-large", help="presets, with commas")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each contender [7]")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for model in arguments.models.split(","):
        rows += measure(model, arguments.rounds, device)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
