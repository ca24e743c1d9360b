"""Tokenizers: WordPiece, SentencePiece and tokenizer.json, and word boundaries of Chinese text.

Owns: text to token ids, and a tokenizer's files.
May import: shards.manifest, common. No torch.
Start reading: ``base.py`` (the interface), then ``load.py``.
"""
