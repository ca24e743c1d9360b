"""The shard format: HDF5 files that check every byte, and their manifest.

Owns: layout, writer, reader and manifest of a folder of shards.
May import: tokenizers, config, common. No torch.
Start reading: ``layout.py``, then ``corpus.py``.
"""
