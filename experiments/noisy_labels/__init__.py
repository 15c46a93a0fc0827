"""Bilevel optimisation without tasks: `python -m experiments.noisy_labels`."""
