"""The command line: parse, call, print. One file per verb, shown in this order."""

from holdfast.cli import audit, lipschitz, certify, check, knowledge  # noqa: F401, I001
from holdfast.cli import report, doctor  # noqa: F401
from holdfast.cli.app import app
from holdfast.cli.ending import main

__all__ = ["app", "main"]
