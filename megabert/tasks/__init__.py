"""Fine-tuning tasks: features, head, predictions and metric of each.

Owns: what a task must provide (``base``) and the registry of tasks.
May import: model, parallel, data, config, common.
Start reading: ``base.py``.
"""
