"""Bad entries of a file that are left out: counted by kind, the first of each named."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Problems:
    """How often each kind of bad entry was met, and where first."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, place: str) -> None:
        """Count one ``kind`` at ``place``."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, place)

    def __str__(self) -> str:
        return "; ".join(
            f"{count} x {kind} (first: {self.first[kind]})" for kind, count in self.counts.items()
        )
