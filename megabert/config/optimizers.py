"""Names that ``--optimizer`` accepts, without importing the optimizers' code (or torch)."""

from __future__ import annotations

from megabert.common.registry import Registry

OPTIMIZERS: Registry[object] = Registry(
    "optimizer",
    {
        "lamb": "megabert.optim.lamb.optimizer:LAMB",
        "lans": "megabert.optim.lamb.optimizer:LANS",
        "adamw": "megabert.optim.lamb.optimizer:ADAMW",
        "muon": "megabert.optim.muon.optimizer:MUON",
        "stable-adamw": "megabert.optim.stable_adamw:STABLE_ADAMW",
    },
    "megabert.optimizers",
)
"""Name -> the optimizer's declaration, read through :mod:`megabert.optim.registry`."""
