"""Models to start from: the format of a path is found, and the model read.

Owns: which format a folder or file has, for commands that take any of them.
May import: checkpoint, engine, model, parallel, data, config, common.
Start reading: ``any_model.py``.
"""
