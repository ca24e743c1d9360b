"""How long a run, its warm-up and its decay last, when events are due, and decay branches.

Owns: batch size and length along a run (``course``), durations in updates, the learning-rate curve of a run's settings, ``--decay-from``.
May import: what pretrain may, except torch.
Start reading: ``durations.py``, then ``branch.py``.
"""
