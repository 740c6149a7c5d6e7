"""Networks and their weights: a registry of bodies, weight cards, one wrapper for every shape of data."""
