"""Short scripts to begin with."""
