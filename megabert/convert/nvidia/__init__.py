"""Checkpoints of NVIDIA DeepLearningExamples' BERT for PyTorch, read only.

Owns: their tensor names and files.
May import: convert, model, data, config, common.
Start reading: ``model.py``.
"""
