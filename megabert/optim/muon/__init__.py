"""Muon: one orthogonalized update per whole matrix, for any ZeRO stage and tensor parallelism.

Owns: who computes which matrix (``ownership``), the iteration (``newton_schulz``), the optimizer.
May import: optim, config, common.
Start reading: ``optimizer.py``, and docs/design/muon.md for why.
"""
