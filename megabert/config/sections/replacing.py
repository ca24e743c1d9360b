"""Settings that give the length of a run, or of its warm-up, in another unit."""

from __future__ import annotations

from dataclasses import replace

from megabert.common.errors import UserError
from megabert.config.flags import Given, SettingsLayer

REPLACES = {
    ("schedule", "train_tokens"): "steps",
    ("schedule", "decay_from"): "steps",
    ("schedule", "warmup"): "warmup_fraction",
}
"""Settings -> the setting of ``optimizer`` that they replace."""


def without_replaced(given: Given) -> Given:
    """``given``, where a flag replaces what ``--config`` says in another unit.

    Raises:
        UserError: one source gives both.
    """
    values = {section: dict(body) for section, body in given.file.values.items()}
    for (section, name), other in REPLACES.items():
        for layer in (given.file, given.flags):
            if layer.sets(section, name) and layer.sets("optimizer", other):
                one, two = (
                    _named(layer, *place) for place in ((section, name), ("optimizer", other))
                )
                raise UserError(f"{one} and {two} say the same in two ways: give one of them")
        if given.flags.sets(section, name):
            values.get("optimizer", {}).pop(other, None)
        if given.flags.sets("optimizer", other):
            values.get(section, {}).pop(name, None)
    file = SettingsLayer(values, given.file.file, given.file.names)
    return replace(given, file=file)


def _named(layer: SettingsLayer, section: str, name: str) -> str:
    return f"{layer.file}: {section}.{name}" if layer.file else f"--{name.replace('_', '-')}"
