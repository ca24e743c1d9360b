"""Hugging Face folders, read and written.

Owns: config.json, tensor names, labels of heads, and the comparison with transformers.
May import: convert, model, data, config, common.
Start reading: ``model.py``.
"""
