"""Question answering: SQuAD v1.1, v2.0 and CMRC 2018.

Owns: files, features, answers and metrics of question answering.
May import: tasks, model, parallel, data, config, common.
Start reading: ``task.py``.
"""
