"""Attention over packed sequences, with and without relative positions.

Owns: the choice of an implementation (``dispatch``) and the implementations on GPUs.
May import: kernels, common.
Start reading: ``dispatch.py``.
"""
