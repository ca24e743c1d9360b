"""Google BERT's TensorFlow checkpoints, read and written without TensorFlow.

Owns: tensor names and the tensor bundle format.
May import: convert, model, data, config, common.
Start reading: ``model.py``.
"""
