"""What is installed here, and what each optional part would need."""

import os
import platform
from typing import Any

VERSION = "0.1.0"
"""Version of Holdfast."""

CORE = ("torch", "numpy", "safetensors", "rich", "cyclopts")
EXTRAS: dict[str, tuple[str, ...]] = {
    "report": ("altair", "vl_convert", "jinja2", "PIL"),
    "demo": ("sklearn",),
    "hf": ("transformers",),
    "onnx": ("onnx",),
    "notebook": ("pandas",),
    "parquet": ("pyarrow",),
    "sdp": ("scipy",),
    "rigorous": ("flint",),
}
"""Modules that each extra brings."""


def diagnosis() -> dict[str, Any]:
    """Return versions, extras and the machine, and whether the main job would run here."""
    import importlib.util

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
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
