"""The only place that knows DeepSpeed."""
