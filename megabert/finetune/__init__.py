"""Fine-tuning: one loop for all tasks, model selection, sweeps over seeds and learning rates.

Owns: ``launch/finetune.py``'s runs from settings to ``results.json``.
May import: tasks, convert, checkpoint, engine, model, parallel, data, config, common.
Start reading: ``command.py``, then ``loop.py``.
"""
