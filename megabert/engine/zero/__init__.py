"""ZeRO: which configurations are exact, where each tensor is, and workarounds for DeepSpeed's bugs.

Owns: ``partitions``, the only reader of ZeRO's tables, and ``fixes``, which patches DeepSpeed.
May import: engine, model, parallel, optim, config, common.
Start reading: ``partitions.py``.
"""
