"""What a run measures: losses, throughput, phases of an update, profiles.

Owns: ``metrics.jsonl``, TensorBoard, the clock of an update, the profiler.
May import: engine, model, config, common.
Start reading: ``writer.py``.
"""
