"""TensorFlow's tensor bundle (checkpoint format V2), read and written without TensorFlow.

``PREFIX.index`` is a sorted table (:mod:`.table`) of entries (:mod:`.entries`): name -> dtype,
shape and place in one of the files ``PREFIX.data-0000i-of-0000n``, which hold the tensors' bytes,
little-endian, one after the other.

Owns: this format's files.
May import: data.foreign, data.tokenizers, common.
Start reading: ``reader.py``, then ``entries.py`` and ``table.py``.
"""

from megabert.convert.google.tensor_bundle.reader import Bundle
from megabert.convert.google.tensor_bundle.writer import write_bundle

__all__ = ["Bundle", "write_bundle"]
