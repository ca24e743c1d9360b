"""Types of numbers with limits, for settings and flags.

pydantic applies them like its own types of the same names. Importing those takes half of the time of a
``--help``, which reads no value; importing these takes none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Limits:
    """Limits of an ``Annotated`` number; None for no limit.

    Attributes:
        ge: least value.
        gt: the value is above this one.
        le: greatest value.
        lt: the value is below this one.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """The number's own schema with the limits; pydantic calls this method."""
        schema: Any = handler(source)
        return schema | {name: limit for name, limit in vars(self).items() if limit is not None}


PositiveInt = Annotated[int, Limits(gt=0)]
Count = Annotated[int, Limits(gt=0, le=2**31 - 1)]
"""Of updates, sequences or tokens: the product of two fits into 64 bits."""
Size = Annotated[int, Limits(gt=0, le=2**24)]
"""Of a dimension of a model: far above that of any, and far below what overflows a product of three."""
LayerCount = Annotated[int, Limits(gt=0, le=1000)]
NonNegativeInt = Annotated[int, Limits(ge=0)]
Processes = Annotated[int, Limits(gt=0, le=1024)]
"""Of processes on one host: more than any needs, and few enough to start."""
ShardCount = Annotated[int, Limits(gt=0, le=100_000)]
Ranks = Annotated[int, Limits(gt=0, le=2**20)]
PositiveFloat = Annotated[float, Limits(gt=0.0)]
NonNegativeFloat = Annotated[float, Limits(ge=0.0)]
Seconds = Annotated[float, Limits(ge=0.0, le=1e8)]
"""A time to wait: three years, ten times as long is still one that Python can wait."""
Fraction = Annotated[float, Limits(ge=0.0, le=1.0)]
Share = Annotated[float, Limits(gt=0.0, le=1.0)]
Probability = Annotated[float, Limits(ge=0.0, lt=1.0)]
