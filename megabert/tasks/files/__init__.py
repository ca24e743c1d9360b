"""Readers of task files: tab-separated, JSON lines, plain lines, TFRecord features.

Owns: lines and rows of files, and the counts of bad entries.
May import: data, common.
Start reading: ``tables.py``.
"""
