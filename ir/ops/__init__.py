"""The op families.  Importing this package registers every op."""

from plait.ir.ops import core, linalg, message, nn, prob, quant, spike

__all__ = ["core", "linalg", "message", "nn", "prob", "quant", "spike"]
