"""Exact optima of environments, and policies that need no learning."""
