"""Tasks on one's own files and labels: ``classify``, ``regress`` and ``tag``.

Owns: the columns and label values of such files, and the three tasks.
May import: tasks, model, parallel, data, config, common.
Start reading: ``classify.py``.
"""
