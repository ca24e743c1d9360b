"""Text, tokenizers, shards, samples and their inspection; numpy only, except for the loader.

Owns: everything between a text file and a batch.
May import: config, common.
Start reading: ``prepare/job.py`` (text to shards), ``samples/loader.py`` (shards to batches).
"""
