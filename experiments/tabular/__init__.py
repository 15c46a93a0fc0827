"""A network that learns, from drawn tables, to predict in tables."""
