"""Predictions of a fine-tuned model, or of masked tokens, as JSON lines.

Owns: ``launch/predict.py``.
May import: finetune, tasks, convert, model, parallel, data, config, common.
Start reading: ``command.py``.
"""
