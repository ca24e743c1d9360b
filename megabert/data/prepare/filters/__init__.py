"""Filters of whole documents: copies of earlier ones, and languages that are not wanted.

Owns: their options, what is computed of each document for them, and which documents are copies.
May import: text, shards, common. No torch.
Start reading: ``choices.py``, then ``copies.py``.
"""
