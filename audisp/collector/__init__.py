"""The collector: its store, and the listener in front of it."""
