"""What is installed here, and what each optional part would need."""

import importlib.util
import os
import platform
from importlib import metadata
from typing import Any

CORE = ("torch", "numpy", "safetensors", "rich", "cyclopts")
EXTRAS: dict[str, tuple[str, ...]] = {
    "report": ("altair", "vl_convert", "jinja2", "PIL"),
    "demo": ("sklearn",),
    "hf": ("transformers",),
    "onnx": ("onnx",),
    "sdp": ("scipy",),
    "rigorous": ("flint",),
}
"""Modules that each extra brings."""


def diagnosis() -> dict[str, Any]:
    """Return versions, extras and the machine, and whether the main job would run here."""
    extras = {
        name: [module for module in modules if importlib.util.find_spec(module) is None]
        for name, modules in EXTRAS.items()
    }
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("holdfast", *CORE)},
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "missing": {name: modules for name, modules in extras.items() if modules},
        "ready": [name for name, modules in extras.items() if not modules],
        "main_job": not extras["report"] and not extras["demo"],
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
