"""Inspection of shard folders: statistics, verification, samples in readable form.

Owns: what ``data_tools/inspect_shards.py`` prints.
May import: shards, samples, tokenizers, common. No torch.
Start reading: ``findings.py``, then ``report.py`` and ``statistics.py``.
"""
