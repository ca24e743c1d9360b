"""Readers of text without wikitext: plain text, and records with a field of text.

Owns: lines and their encoding, layouts of plain text, hard-wrapped lines, JSON and tables.
May import: ``pages`` and ``reading`` of the folder above, common. No torch.
Start reading: ``documents.py`` (plain text), then ``records.py``.
"""
