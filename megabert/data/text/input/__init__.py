"""Readers of MediaWiki dumps, Parquet and text files: to pages, whole or by segments.

Owns: file formats, compression and segments of inputs.
May import: text, common. No torch.
Start reading: ``sources.py``.
"""
