"""Settings: dataclasses, flags made from them, model presets and published recipes.

Owns: the shape of a model (``model``), the settings of a training run (``training``), the command-line parser (``flags``).
May import: common.
Start reading: ``training.py``.
"""
