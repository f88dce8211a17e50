"""Frontends: everything that brings a source model into the IR, and the model families themselves."""

from plait.frontends.registry import load_extensions, register
from plait.frontends.report import Unsupported, UnsupportedError

__all__ = ["Unsupported", "UnsupportedError", "load_extensions", "register"]
