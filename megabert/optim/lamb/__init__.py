"""LAMB, LANS and AdamW: one rule with three variants, and the code that computes it on each device.

Owns: the rule, its trust ratios, and its passes in torch operators, Triton kernels or NVIDIA's apex.
May import: the rest of optim, config, common.
Start reading: ``optimizer.py``, then ``backend.py`` (what a backend computes).
"""
