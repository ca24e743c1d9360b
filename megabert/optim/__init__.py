"""LAMB and related rules, parameter groups and learning-rate schedules; collectives come in as callables.

Owns: the update rules, the trust ratios of whole tensors, the backends that compute them.
May import: config, common.
Start reading: ``lamb.py`` (the trust ratio), then ``flat_segments.py``.
"""
