"""Markdown tables, and the line under each that says when and on what a benchmark ran."""

from __future__ import annotations

from typing import Any


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def provenance(record: dict[str, Any], *more: str) -> str:
    """When, on what and with which versions (those of `more` as well) a benchmark ran."""
    wanted = ("torch", "apache-tvm", "onnx", *more)
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if k in wanted)
    where = record["machine"]
    return f"\nRun {record['date']} on {where['cores']} cores of {where['processor']}; {versions}.\n"
