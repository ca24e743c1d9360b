"""The encoders, their heads, initial weights and weight files. No rank arithmetic and no ZeRO.

Owns: what is computed, which tensors a model has, how they are initialised and stored.
May import: kernels, parallel, config, common.
Start reading: ``encoder.py``, then ``modules.py`` and ``encoders/``.
"""
