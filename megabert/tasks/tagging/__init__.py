"""Named entities by tagging tokens: CLUENER and CoNLL columns.

Owns: files, features, entity spans and scores of tagging.
May import: tasks, model, parallel, data, config, common.
Start reading: ``task.py``.
"""
