"""Tokenizers: WordPiece, SentencePiece and tokenizer.json, with the words of Chinese text.

Owns: text to token ids, and the files of a tokenizer.
May import: common. No torch.
Start reading: ``base.py``, then ``load.py``.
"""
