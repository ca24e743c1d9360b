"""The host of a rank: its GPU, its cores, the variables that CUDA and NCCL read.

Owns: the choice of device and cores, checks of the machine at the start of a run.
May import: kernels, common.
Start reading: ``device.py``, then ``cores.py``.
"""
