"""ZeRO: which configurations are exact, where each tensor lies, and fixes of DeepSpeed's bugs.

Owns: ``partitions``, the only reader of ZeRO's tables, and ``fixes``, the only place that patches DeepSpeed's optimizers.
May import: engine, model, parallel, optim, config, common.
Start reading: ``partitions.py``.
"""
