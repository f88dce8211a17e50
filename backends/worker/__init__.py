"""Processes that run native code for this one, and may crash or hang without harm to it."""
