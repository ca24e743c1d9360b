"""Fused operators, with one signature on every device.

Owns: the operators (``ops``), what they compute in plain torch (``reference``), their C++ (``cpu``) and Triton forms.
May import: common.
Start reading: ``reference.py``, then ``ops.py``.
"""
