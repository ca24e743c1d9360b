"""Preparation: source text to a folder of shards, on many processes and hosts.

Owns: the sharding job, its work queue and output folder; training of tokenizers.
May import: text, tokenizers, shards, common. No torch.
Start reading: ``job.py``, then ``worker.py`` and ``encode.py`` (how a page becomes tokens).
"""
