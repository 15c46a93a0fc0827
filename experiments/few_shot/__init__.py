"""Few-shot learning: `python -m experiments.few_shot`."""
