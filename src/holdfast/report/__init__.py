"""The audit page: figures, pictures and words made from one audit's numbers."""

from holdfast.report.page import render, write_page

__all__ = ["render", "write_page"]
