"""Frontends: everything that brings a source model into the IR, and the model families themselves."""
