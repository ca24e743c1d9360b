"""Tensor and sequence parallelism: who computes which part of a layer, and what is communicated.

Owns: rank arithmetic and process groups (``topology``), the communication operators (``mappings``), split layers.
May import: kernels, config, common.
Start reading: ``topology.py``, then ``mappings.py``.
"""
