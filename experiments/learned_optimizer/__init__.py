"""Optimizers that are learned on many small trainings."""
