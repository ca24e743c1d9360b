"""Conversion of checkpoints between formats, checked tensor by tensor and by outputs.

Owns: formats (``format``) and their registry (``formats``), tables of tensor names
(``name_table``), the conversion (``run``) and its checks (``check``, ``read_back``).
May import: checkpoint, engine, model, parallel, data, config, common.
Start reading: ``format.py`` and ``formats.py``, then ``run.py``.
"""
