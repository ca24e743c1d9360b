"""Folders for other programs: sentence-transformers, ONNX, and the model card of what is written.

Owns: these two formats, the pooling of a folder, what is known of a model's training, the card.
May import: convert, model, data, config, common.
Start reading: ``sentence_folder.py``, ``onnx_file.py``, ``model_card.py``.
"""
