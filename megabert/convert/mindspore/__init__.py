"""Checkpoints of MindSpore's BERT, read only.

Owns: their tensor names, configuration and files.
May import: convert, model, data, config, common.
Start reading: ``model.py``.
"""
