"""Triton kernels of the fused operators; ``fused`` lists them under the names of ``kernels.reference``.

Owns: the GPU form of each operator.
May import: kernels, common.
Start reading: ``fused.py``, then ``tiles.py``.
"""
