"""From source text to cleaned paragraphs of sentences.

Owns: pages, paragraphs and sentences; readers are in ``input``, cleaning is in ``wikitext``.
May import: common. No torch.
Start reading: ``document.py``.
"""
