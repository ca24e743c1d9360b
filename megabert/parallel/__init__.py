"""Tensor parallelism: who holds which split, and what is communicated."""
