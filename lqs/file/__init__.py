"""The `.lqs` file."""
