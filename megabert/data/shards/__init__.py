"""The shard format: HDF5 files that check every byte, and their manifest.

Owns: the layout, writer, reader and manifest of a folder of shards, and spans of its documents.
May import: common. No torch.
Start reading: ``layout.py``, then ``corpus.py``.
"""
