"""Wikitext to plain text: templates, links, tags, tables, language conversion.

Owns: the rules of cleaning.
May import: common. No torch.
Start reading: ``sections.py``.
"""
