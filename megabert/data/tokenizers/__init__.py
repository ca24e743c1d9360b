"""Tokenizers: WordPiece, SentencePiece and tokenizer.json, with the words of Chinese text.

Owns: text to token ids, and the files of a tokenizer.
May import: common, data.shards.manifest. No torch.
Start reading: ``base.py`` (the interface), then ``load.py``.
"""
