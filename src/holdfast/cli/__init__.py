"""The command line: parse, call, print. One file per verb, shown in this order."""

from holdfast.cli import audit, lipschitz, certify, smooth, check, attack  # noqa: F401, I001
from holdfast.cli import conditions, knowledge, substitutions, descent  # noqa: F401
from holdfast.cli import report, ls, doctor  # noqa: F401
from holdfast.cli.app import app
from holdfast.cli.ending import main

__all__ = ["app", "main"]
