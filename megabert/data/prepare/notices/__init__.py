"""What a sharding job says about its inputs: their languages, what was given twice, duplicates.

Owns: lines of logs and summaries about inputs, and the language that each input is read by.
May import: prepare, text, shards, common. No torch.
Start reading: ``languages.py``.
"""
