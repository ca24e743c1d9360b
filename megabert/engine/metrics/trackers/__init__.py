"""Where the numbers of a run are shown, along with ``metrics.jsonl``: ``--tracker``.

Owns: TensorBoard, CSV files, and the clients of Weights & Biases and MLflow.
May import: engine, config, common.
Start reading: ``base.py``.
"""
