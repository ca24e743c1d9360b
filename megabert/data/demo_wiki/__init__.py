"""The generated encyclopedia: an invented world, articles about it, and questions.

Owns: the generator of data_tools/make_sample_wiki.py; equal arguments give equal bytes.
May import: common. No torch.
Start reading: ``world.py``, then ``articles.py`` and ``questions.py``.
"""
