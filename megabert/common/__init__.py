"""What every package may use: errors, logging, progress, files, names, published hardware figures.

Owns: user-facing errors, logging and progress, the only atomic writer of files and folders, names shared by several packages.
May import: nothing else of megabert, and no torch at import time.
Start reading: ``errors.py``, then ``files.py``.
"""
