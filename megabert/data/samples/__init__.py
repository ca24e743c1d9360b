"""Training samples as pure functions of (shards, seed, epoch, index), and the batches made of them.

Owns: the order of samples, sentence pairs, masking, packing, the loader.
May import: shards, tokenizers, config, common. Only ``loader`` imports torch.
Start reading: ``index.py``, ``pairs.py``, ``masking.py``, then ``loader.py``.
"""
