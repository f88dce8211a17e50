"""Backends: what turns a verified graph into something that runs."""
