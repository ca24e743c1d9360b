"""The watch over a run: whether every rank is there and makes progress, and how a run ends if not.

Owns: the progress that each rank notes, the connections over which ranks see each other's, the
judgement of them, the one line and the files in ``RUN/faults`` with which a run ends.
May import: common.
Start reading: ``judge.py``, then ``watcher.py``.

The connections are the watch's own: every rank sends a line of JSON to rank 0 each second. Training
collectives cannot carry it, because they are what hangs. ``torch.distributed``'s store cannot either:
a request to a store that hangs, or is behind a cut link, blocks with no time limit, and the store does
not say that a client has gone; a socket does, at once. Files in the run folder would depend on how
soon hosts see each other's writes, and on their clocks.
"""
