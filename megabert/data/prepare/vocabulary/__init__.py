"""Changes of a vocabulary by text.

Owns: the extension of a WordPiece vocabulary by entries that the text uses.
May import: data's tokenizers, common.
Start reading: ``extension.py``.
"""
