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

    def with_more(self, *others: Problems) -> Problems:
        """These and the others, as a new object."""
        counts, first = dict(self.counts), dict(self.first)
        for other in others:
            for kind, count in other.counts.items():
                counts[kind] = counts.get(kind, 0) + count
                first.setdefault(kind, other.first[kind])
        return Problems(counts, first)

    @property
    def total(self) -> int:
        """Bad entries of all kinds."""
        return sum(self.counts.values())

    def by_kind(self) -> dict[str, dict[str, int | str]]:
        """For results.json: kind -> its ``count`` and where it was met ``first``."""
        return {
            kind: {"count": count, "first": self.first[kind]} for kind, count in self.counts.items()
        }

    def __str__(self) -> str:
        return "; ".join(
            f"{count} x {kind} (first: {self.first[kind]})" for kind, count in self.counts.items()
        )
