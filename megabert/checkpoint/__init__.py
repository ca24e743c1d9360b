"""Training checkpoints: written, verified, resumed on any layout, merged to whole tensors.

Owns: the checkpoint folder and its record; what must match to resume.
May import: engine, model, parallel, optim, data, config, common.
Start reading: ``save_load.py``; integrity is checked in ``record.py``.
"""

import megabert.engine  # noqa: F401  selects DeepSpeed's accelerator
