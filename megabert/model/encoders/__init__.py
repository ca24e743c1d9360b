"""The encoders: one file each, which states what differs from the others.

Owns: blocks, costs and checks of each encoder, and the table of all of them (``variant``).
May import: the parent's modules, kernels, parallel, config, common.
Start reading: ``variant.py``, then ``bert.py``.
"""
