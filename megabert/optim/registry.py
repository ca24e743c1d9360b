"""The optimizers by name: what each declares, and how one is added.

An optimizer is one file with its class and its :class:`OptimizerSpec`. A built-in one has a line in
``megabert/config/optimizers.py``. A package adds its own with :func:`register_optimizer`, or with an
entry point of the group ``megabert.optimizers`` (``name = module:spec``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megabert.common.errors import UserError
from megabert.config.optimizers import OPTIMIZERS
from megabert.config.training import OptimizerSettings
from megabert.optim.base import ShardedOptimizer


@dataclass(frozen=True)
class StateLayout:
    """How a run divides the tensors that the optimizer updates."""

    zero_stage: int = 0
    tensor_parallel: int = 1


Make = Callable[[list[dict[str, Any]], OptimizerSettings, StateLayout], ShardedOptimizer]
"""Makes an optimizer of parameter groups (:mod:`megabert.optim.param_groups`); a class can be one. The
schedule sets every group's ``lr`` before each update."""


@dataclass(frozen=True)
class OptimizerSpec:
    """What an optimizer declares.

    Attributes:
        name: value of ``--optimizer``.
        summary: the rule, in one line.
        make: see :data:`Make`.
        reads: fields of :class:`~megabert.config.training.OptimizerSettings` that the rule uses. A
            value given for another field of a rule is reported as having no effect.
        reads_more: further fields that it uses with some settings; None: there are none.
        state_bytes: bytes of state per parameter apart from the fp32 weight.
        matrix_state_bytes: the same of the matrices of encoder layers, where these have other state
            tensors (None: they have the same).
        moved_bytes: bytes per parameter that an update reads and writes in fp32, from which the
            planner estimates its time.
        sums_norms: each update sums norms of whole tensors over the ranks.
        deepspeed_types: its names in the ``optimizer`` section of a DeepSpeed file.
        matrices: whether a parameter of this name and number of dimensions is updated as a whole
            matrix, in a group of its own (``matrix`` of the group is true). None: no parameter is.
        matrix_flops: floating-point operations of the update of a matrix, by rows, columns and the steps of
            an iteration.
    """

    name: str
    summary: str
    make: Make
    reads: frozenset[str] = frozenset()
    reads_more: Callable[[OptimizerSettings], frozenset[str]] | None = None
    state_bytes: int = 8
    matrix_state_bytes: int | None = None
    moved_bytes: int = 28
    sums_norms: bool = False
    deepspeed_types: tuple[str, ...] = ()
    matrices: Callable[[str, int], bool] | None = None
    matrix_flops: Callable[[int, int, int], int] | None = None

    def fields_read(self, settings: OptimizerSettings) -> frozenset[str]:
        """The fields of these settings that the rule uses."""
        return self.reads | (self.reads_more(settings) if self.reads_more else frozenset())

    def mean_state_bytes(self, matrices: float) -> float:
        """Bytes of state per parameter of a model, of which this share lies in layers' matrices."""
        own = self.state_bytes if self.matrix_state_bytes is None else self.matrix_state_bytes
        return self.state_bytes + (own - self.state_bytes) * matrices


def register_optimizer(spec: OptimizerSpec) -> OptimizerSpec:
    """Make an optimizer known to ``--optimizer``; returns it.

    Raises:
        UserError: another optimizer has this name.
    """
    OPTIMIZERS.register(spec.name, spec)
    return spec


def optimizer_spec(name: str) -> OptimizerSpec:
    """The declaration of the optimizer of this name; imports its module.

    Raises:
        UserError: an unknown name, a package that cannot be imported, or an entry point that is not
            an :class:`OptimizerSpec`.
    """
    spec = OPTIMIZERS.get(name)
    if not isinstance(spec, OptimizerSpec):
        raise UserError(
            f"optimizer {name!r} is of type {type(spec).__name__}; the entry point of the group "
            "megabert.optimizers must name an OptimizerSpec"
        )
    return spec


def optimizer_specs() -> tuple[OptimizerSpec, ...]:
    """Every optimizer, the built-in ones first; imports them all."""
    return tuple(optimizer_spec(name) for name in OPTIMIZERS.names())
