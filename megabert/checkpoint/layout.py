"""How weights and moments are divided among ranks and files, and an engine's own counters.

Where a checkpoint's layout equals the engine's, DeepSpeed loads its own files, bit for bit; otherwise
the state goes through whole tensors (``resume.resume``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import sha256_of
from megabert.data.samples.course import Course, CourseStage
from megabert.engine.training_engine import TrainingEngine
from megabert.engine.zero.partitions import is_split, local_shape
from megabert.engine.zero.whole_tensors import state_names
from megabert.optim.base import EMA

_ADAM = ("exp_avg", "exp_avg_sq")
"""The states that records of all versions mean where they name none."""


@dataclass(frozen=True)
class Layout:
    """What must be equal for DeepSpeed's files to fit.

    ``optimizer``: class and rule. ``wrapper``: DeepSpeed's class around it. ``slices``: length of each
    of a rank's partitions, and a hash of the names of the tensors in it (stage 0: of all in one), which
    identify parameter groups and stage 3's sub-groups. ``states``: names of the optimizer's state tensors
    in each parameter group. The last four are None in older records, and then not compared.
    """

    world_size: int
    tensor_parallel: int
    zero_stage: int
    precision: str
    optimizer: str | None = None
    wrapper: str | None = None
    slices: list[str] | None = None
    states: list[str] | None = None

    @classmethod
    def of(cls, engine: TrainingEngine) -> Layout:
        """The layout of a live engine."""
        topology = engine.world.topology
        return cls(
            topology.world_size,
            topology.tensor_parallel,
            engine.zero_stage,
            engine.precision,
            engine.optimizer.record_name,
            engine.optimizer_wrapper,
            _partition_ids(engine),
            [", ".join(engine.optimizer.all_states(g)) for g in engine.optimizer.param_groups],
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Layout:
        """The layout in a checkpoint's record.

        Raises:
            UserError: the record does not state it.
        """
        values: dict[str, Any] = {field.name: record.get(field.name) for field in fields(cls)}
        needed = ("world_size", "tensor_parallel", "zero_stage", "precision")
        if absent := [name for name in needed if values[name] is None]:
            raise UserError(
                f"the record of a checkpoint has no {absent[0]}: use another checkpoint"
            )
        return cls(**values)

    def to_record(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {**asdict(self), "data_parallel": self.world_size // self.tensor_parallel}

    def fits(self, other: Layout) -> bool:
        """True if DeepSpeed's files of one layout load into an engine of the other."""
        return not self._differing(other)

    def _differing(self, other: Layout) -> list[str]:
        ours, theirs = asdict(self), asdict(other)
        return [
            name
            for name, value in ours.items()
            if value is not None and theirs[name] is not None and value != theirs[name]
        ]

    @property
    def has_average(self) -> bool:
        """Whether the optimizer keeps the moving average of the weights."""
        return any(EMA in names.split(", ") for names in self.states or ())

    def describe(self) -> str:
        """``TP 2 x DP 2, ZeRO 1, fp32``."""
        data_parallel = self.world_size // self.tensor_parallel
        return (
            f"TP {self.tensor_parallel} x DP {data_parallel}, ZeRO {self.zero_stage}, "
            f"{self.precision}"
        )

    def describe_change(self, other: Layout) -> str:
        """``(TP 2 x DP 2, ...) on TP 1 x DP 4, ...``, and differences that these words do not show."""
        described = {"world_size", "tensor_parallel", "zero_stage", "precision"}
        differing = self._differing(other)
        if not differing:
            return f"({self.describe()})"
        hidden = [name for name in differing if name not in described]
        if set(differing) & described and "optimizer" not in hidden:
            hidden = []  # then other partitions and wrappers are expected
        if "states" in hidden and "slices" in hidden:
            hidden.remove("slices")  # which name the states too
        words = {
            "optimizer": f"optimizer {self.optimizer} -> {other.optimizer}",
            "wrapper": f"DeepSpeed's {self.wrapper} -> {other.wrapper}",
            "slices": "other parameter groups or sub-groups",
            "states": f"optimizer state {_listed(self.states)} -> {_listed(other.states)}",
        }
        more = "".join(f"; {words[name]}" for name in hidden)
        return f"({self.describe()}) on {other.describe()}{more}"


def _listed(states: Sequence[str] | None) -> str:
    return " / ".join(dict.fromkeys(states or ()))


def _partition_ids(engine: TrainingEngine) -> list[str]:
    parts = []
    for item in engine.partitions():
        states = state_names(engine.optimizer, item)
        # of other states too, because stage 0 does not show where one group ends
        hashed = item.partition.names + (() if states == _ADAM else states)
        parts.append((item.flat.numel(), hashed))
    if engine.zero_stage == 0:
        names = tuple(name for _, one in parts for name in one)
        parts = [(sum(numel for numel, _ in parts), names)]
    return [f"{numel} {sha256_of(' '.join(names))[:12]}" for numel, names in parts]


def counters(engine: TrainingEngine) -> dict[str, Any]:
    """What an engine counts apart from its updates: skipped updates, and fp16's loss scale."""
    values: dict[str, Any] = {"skipped_steps": engine.skipped_steps}
    if engine.loss_scale is not None:
        values["loss_scale"] = engine.loss_scale
    return values


def restore_counters(engine: TrainingEngine, record: Mapping[str, Any]) -> None:
    """Set the engine's counters, schedule and fp16 loss scale from a checkpoint's record."""
    scale, stages = record.get("loss_scale"), record.get("course")
    step, skipped = int(record["step"]), int(record.get("skipped_steps", 0))
    engine.restore_counters(
        step,
        skipped,
        None if scale is None else float(scale),
        Course([CourseStage(**stage) for stage in stages]).first_sample(step + skipped)
        if stages
        else None,
    )


def checkpoint_bytes(engine: TrainingEngine) -> int:
    """Approximate bytes of a checkpoint of ``engine``, all ranks' files together."""
    tensor_parallel = engine.world.tp.size
    fp32_bytes = {  # master weight and state
        id(parameter): 4 * (1 + len(state_names(engine.optimizer, item)))
        for item in engine.partitions()
        for parameter in item.parameters
    }
    total = 0
    for parameter in engine.module.parameters():
        whole = local_shape(parameter).numel() * (tensor_parallel if is_split(parameter) else 1)
        total += whole * (fp32_bytes.get(id(parameter), 0) + parameter.element_size())
    return total
