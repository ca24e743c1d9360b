"""Template calls: what a reader sees of them, from tables per language.

``expand`` walks over the wikitext, ``table`` looks a call up, ``pattern`` and ``rules`` make its
text. The tables are data: ``wikitext/tables/*.toml``.
"""
