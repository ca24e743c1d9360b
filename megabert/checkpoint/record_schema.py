"""The shape of a checkpoint's record. Its sum says that it is as it was written, not by whom."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from megabert.common.schema import Count, FileName, Sha256, shape_fault
from megabert.config.numbers import NonNegativeFloat

_Number = float | int
_Ranks = Annotated[int, Field(ge=1, lt=1 << 20)]
_Range = Annotated[list[Count], Field(min_length=2, max_length=2)]
_Sums = Annotated[list[_Number], Field(max_length=64)]


class _Entry(TypedDict):
    bytes: Count
    sha256: Sha256


class _Stage(TypedDict):
    weights: Annotated[list[Count], Field(min_length=1, max_length=1 << 16)]
    samples: Count | None


class _Mixture(TypedDict):
    corpora: Annotated[list[str], Field(max_length=1 << 16)]
    stages: Annotated[list[_Stage], Field(max_length=1 << 16)]


class _Branch(TypedDict):
    run: str
    step: Count


class _CourseStage(TypedDict):
    batch: Annotated[int, Field(ge=1, lt=1 << 40)]
    length: Annotated[int, Field(ge=1, lt=1 << 31)]
    updates: Count | None


class _Record(TypedDict):
    version: Count
    step: Count
    consumed_samples: Count
    files: dict[FileName, _Entry]
    model: dict[str, Any]
    program: NotRequired[str]
    heads: NotRequired[Annotated[list[str], Field(max_length=64)]]
    tokenizer_sha256: NotRequired[str | None]
    data_fingerprint: NotRequired[str]
    mixture: NotRequired[_Mixture | None]
    decay_from: NotRequired[_Branch]
    course: NotRequired[
        Annotated[list[_CourseStage], Field(min_length=1, max_length=1 << 16)] | None
    ]
    global_batch_size: NotRequired[Annotated[int, Field(ge=1, lt=1 << 40)]]
    trained_positions: NotRequired[Annotated[int, Field(ge=0, lt=1 << 31)]]
    tokens: NotRequired[Count]
    elapsed_seconds: NotRequired[NonNegativeFloat]
    evaluation: NotRequired[dict[str, _Number]]
    guard: NotRequired[Annotated[list[_Number], Field(max_length=1 << 20)]]
    skipped_ranges: NotRequired[Annotated[list[_Range], Field(max_length=1 << 20)]]
    unlogged: NotRequired[_Sums]
    work: NotRequired[dict[str, _Sums]]
    clock: NotRequired[dict[str, _Number]]
    world_size: NotRequired[_Ranks]
    tensor_parallel: NotRequired[_Ranks]
    data_parallel: NotRequired[_Ranks]
    zero_stage: NotRequired[Annotated[int, Field(ge=0, le=3)]]
    precision: NotRequired[str]
    optimizer: NotRequired[str | None]
    wrapper: NotRequired[str | None]
    slices: NotRequired[Annotated[list[str], Field(max_length=1 << 20)] | None]
    states: NotRequired[Annotated[list[str], Field(max_length=1 << 16)] | None]
    skipped_steps: NotRequired[Count]
    loss_scale: NotRequired[_Number | None]


def record_fault(record: Any) -> str | None:
    """What is wrong with the shape of a checkpoint's record; None if nothing is."""
    return shape_fault(_Record, record)
