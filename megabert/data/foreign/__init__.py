"""Pretraining shards of other projects: masked, padded samples, read as they are or as text.

Owns: readers of NVIDIA's HDF5 and of BERT TFRecords, their samples for the loader, and the import
into shards of our own.
May import: prepare, samples, shards, text, tokenizers, common. No torch.
Start reading: ``static.py`` (one sample), ``files.py`` and ``source.py``, then ``importing.py``.
"""
