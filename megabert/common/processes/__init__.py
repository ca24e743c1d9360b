"""Processes of a run: requests to stop, the launchers that started them, what each reports at its end.

Owns: signal handlers, the watch over launchers, the reports of ranks, the status of a
whole run, and processes for libraries that a hostile file can stop.
May import: the rest of ``common``, and no torch.
Start reading: ``stopping.py``.
"""
