"""Optimizers over ZeRO's flat slices, their registry, parameter groups and learning-rate schedules.

Owns: the update rules, the trust ratios of whole tensors, which part of which tensor lies in a slice.
May import: config, common. Collectives come in as callables: nothing here knows DeepSpeed.
Start reading: ``base.py`` (what an optimizer must do), ``registry.py``, then ``lamb/optimizer.py``.
"""
