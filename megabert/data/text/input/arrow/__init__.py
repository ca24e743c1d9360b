"""Arrow files, and the folders in which the datasets library keeps them.

Owns: the layouts of such folders; pages from the stream and the file format.
May import: text, common. No torch.
Start reading: ``folders.py``, then ``pages.py``.
"""
