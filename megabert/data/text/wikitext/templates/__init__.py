"""Template calls: what a reader sees of them.

Owns: the walk over nested calls, patterns, rules for figures and units, the reading of tables.
May import: data.text, common.
Start reading: expand.py, then table.py.
"""
