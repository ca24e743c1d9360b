"""Source text to cleaned paragraphs of sentences.

Owns: pages, paragraphs and sentences; readers in ``input``, cleaning in ``wikitext``.
May import: common. No torch.
Start reading: ``document.py``.
"""
