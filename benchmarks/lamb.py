#!/usr/bin/env python
"""One optimizer step on BERT's tensors: ours beside torch's AdamW and other LAMBs, with the floor.

    python benchmarks/lamb.py [--models bert-base,bert-large] [--rounds 7] [--json FILE]

Each contender updates the same tensors from the same gradients, in fp32, with the decay of biases and
norms off, in one process, interleaved round by round; medians. Contenders that cannot run here say
why. "flat" is what ZeRO hands out (one slice a parameter group), "tensors" what training without it
has.

Bytes are what the algorithm must move: AdamW 28 a parameter (g, p, m, v in; p, m, v out), a LAMB in
two passes 40; the floor is a copy of the same number of bytes, measured in the same rounds. A step's
"x floor" is its time over the time that the copy takes for 28 bytes a parameter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.config import model_config
from megabert.log import UserError
from megabert.model.heads import BertForPreTraining
from megabert.optim.backends import apex_lamb, choose_backend
from megabert.optim.lamb import Lamb
from megabert.optim.param_groups import parameter_groups
from megabert.optim.segments import SegmentTable, cut

LR, EPS, DECAY, BETAS = 1e-4, 1e-6, 0.01, (0.9, 0.999)
FLOOR_BYTES = 28


@dataclass
class Contender:
    """A step to be timed and the bytes a parameter that it must move."""

    name: str
    step: Callable[[], Any]
    bytes: int


def bert_groups(model: str, device: torch.device) -> list[dict[str, Any]]:
    """The model's parameter groups with weights and gradients of usual sizes, on ``device``."""
    with torch.device("meta"):
        whole = BertForPreTraining(model_config(model))
    groups = parameter_groups(whole, DECAY)
    generator = torch.Generator(device).manual_seed(0)
    for group in groups:
        made = []
        for parameter in group["params"]:
            weight = torch.randn(parameter.shape, generator=generator, device=device) * 0.02
            weight.grad = torch.randn(parameter.shape, generator=generator, device=device) * 1e-4
            made.append(weight)
        group["params"] = made
    return groups


def flat_groups(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], SegmentTable]:
    """The same as one slice a group, with its segments."""
    table, flats = [], []
    for group in groups:
        tensors = group["params"]
        numels = [tensor.numel() for tensor in tensors]
        starts = [sum(numels[:number]) for number in range(len(numels))]
        flat = torch.cat([tensor.view(-1) for tensor in tensors])
        flat.grad = torch.cat([tensor.grad.view(-1) for tensor in tensors])
        none = [False] * len(numels)
        table.append((flat, cut(group["names"], starts, numels, none, 0, flat.numel())))
        flats.append({**group, "params": [flat]})
    return flats, SegmentTable(table, None)


def copies(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups with tensors of their own."""
    new = []
    for group in groups:
        tensors = [tensor.detach().clone() for tensor in group["params"]]
        for tensor, old in zip(tensors, group["params"]):
            tensor.grad = old.grad.clone()
        new.append({**group, "params": tensors})
    return new


def only_torchs(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = ("params", "weight_decay")
    return [{key: group[key] for key in keys} for group in copies(groups)]


class PlainLamb(torch.optim.Optimizer):
    """The rule as it is usually written: a Python loop over tensors, norms waited for."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                m, v, t = state["m"], state["v"], state["t"]
                m.mul_(BETAS[0]).add_(p.grad, alpha=1 - BETAS[0])
                v.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
                u = (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)).sqrt().add_(EPS))
                ratio = 1.0
                if group["weight_decay"]:
                    u.add_(p, alpha=group["weight_decay"])
                    weight, update = p.norm().item(), u.norm().item()
                    ratio = weight / update if weight > 0 and update > 0 else 1.0
                p.add_(u, alpha=-LR * ratio)


def contenders(groups: list[dict[str, Any]], device: torch.device) -> list[Contender]:
    """Everything that runs here; the rest is told why it does not."""
    found = []
    for rule, moved in (("lamb", 40), ("lans", 48), ("adamw", 28)):
        for backend in ("torch", "triton"):
            try:
                chosen = choose_backend(backend, device)  # type: ignore[arg-type]
            except UserError as error:
                if rule == "lamb":
                    print(f"left out: megabert by {backend}: {error}")
                continue
            flats, table = flat_groups(groups)
            ours = Lamb(flats, lr=LR, eps=EPS, rule=rule, backend=chosen, overwrite_gradients=True)  # type: ignore[arg-type]
            ours.attach(table)
            found.append(Contender(f"megabert {rule}, flat, {backend}", ours.step, moved))
            if rule == "lamb":
                whole = Lamb(copies(groups), lr=LR, eps=EPS, backend=chosen)
                name = f"megabert lamb, tensors, {backend}"
                found.append(Contender(name, whole.step, moved))
    for kind in ("foreach", "fused"):
        peer = torch.optim.AdamW(only_torchs(groups), lr=LR, eps=EPS, betas=BETAS, **{kind: True})
        found.append(Contender(f"torch AdamW, tensors, {kind}", peer.step, 28))
    plain = PlainLamb(only_torchs(groups), {"lr": LR})
    found.append(Contender("plain LAMB, a loop over tensors", plain.step, 40))
    for name, make in (("DeepSpeed FusedLamb", deepspeed_lamb), ("apex FusedLAMB", nvidia_lamb)):
        try:
            found.append(Contender(f"{name}, tensors", make(copies(groups)).step, 40))
        except Exception as error:  # a peer's build can fail in any way
            print(f"left out: {name}: {' '.join(str(error).split())[:160]}")
    return found


def deepspeed_lamb(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    from deepspeed.ops.lamb import FusedLamb

    if groups[0]["params"][0].device.type != "cuda":
        raise RuntimeError("its kernel is CUDA only")
    keys = ("params", "weight_decay")
    slim = [{key: group[key] for key in keys} for group in groups]
    return FusedLamb(slim, lr=LR, eps=EPS, betas=BETAS)


def nvidia_lamb(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return apex_lamb(
        groups, lr=LR, betas=BETAS, eps=EPS, bias_correction=True, bounds=(None, None),
        rule="lamb", zero_stage=0, tensor_parallel=1,
    )  # fmt: skip


def timed(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def floor_step(total: int, device: torch.device) -> Callable[[], Tensor]:
    """A copy that reads and writes 28 bytes a parameter in all."""
    numel = total * FLOOR_BYTES // 8
    source, target = torch.randn(numel, device=device), torch.empty(numel, device=device)
    return lambda: target.copy_(source)


def measure(model: str, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    groups = bert_groups(model, device)
    total = sum(tensor.numel() for group in groups for tensor in group["params"])
    field = contenders(groups, device)
    field.append(Contender("floor: a copy of 28 bytes a parameter", floor_step(total, device), 28))
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
