"""From wikitext to plain text: templates, links, tags, tables, language conversion.

Owns: the cleaning rules.
May import: common. No torch.
Start reading: ``sections.py``.
"""
