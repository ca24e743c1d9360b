"""Fine-tuning tasks: features in, predictions and a metric out."""
