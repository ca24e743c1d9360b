"""Classification and regression of texts and pairs: GLUE and TNEWS.

Owns: files, features and metrics of these tasks.
May import: tasks, model, parallel, data, config, common.
Start reading: ``task.py``.
"""
