"""Holdfast: how far may something move before a network's answer may change?

Lipschitz brackets, certified radii and knowledge continuity for PyTorch models.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.attacks.attack import attack as attack
    from holdfast.attacks.result import Attacks as Attacks
    from holdfast.audits.audit import audit as audit
    from holdfast.brackets.bracket import Bracket as Bracket
    from holdfast.brackets.lipschitz import lipschitz as lipschitz
    from holdfast.certificates.certificate import Certificates as Certificates
    from holdfast.certificates.certify import certify as certify
    from holdfast.certificates.conditions import Conditions as Conditions
    from holdfast.certificates.conditions import conditions as conditions
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import HoldfastWarning as HoldfastWarning
    from holdfast.errors import InvalidInput as InvalidInput
    from holdfast.errors import Unsupported as Unsupported
    from holdfast.graph.capture import capture as capture
    from holdfast.graph.ir import Graph as Graph
    from holdfast.knowledge_continuity.knowledge import knowledge as knowledge
    from holdfast.knowledge_continuity.result import Knowledge as Knowledge
    from holdfast.language.attack import TextAttacks as TextAttacks
    from holdfast.language.attack import attack_texts as attack_texts
    from holdfast.language.certify import certify_substitutions as certify_substitutions
    from holdfast.language.result import SubstitutionCertificates as SubstitutionCertificates
    from holdfast.progress import show_progress as show_progress
    from holdfast.smoothing.noise import Deletion as Deletion
    from holdfast.smoothing.noise import Gaussian as Gaussian
    from holdfast.smoothing.noise import Uniform as Uniform
    from holdfast.smoothness.descent import descent as descent
    from holdfast.smoothness.monitor import DescentMonitor as DescentMonitor
    from holdfast.sources.models import load_model as load_model
    from holdfast.sources.substitutions import load_substitutions as load_substitutions
    from holdfast.types import Ball as Ball
    from holdfast.types import Box as Box
    from holdfast.types import Estimate as Estimate
    from holdfast.types import Outcome as Outcome

from holdfast.versions import VERSION

__version__ = VERSION

_HOME = {
    "Attacks": "holdfast.attacks.result",
    "Ball": "holdfast.types",
    "Box": "holdfast.types",
    "Bracket": "holdfast.brackets.bracket",
    "Certificates": "holdfast.certificates.certificate",
    "Conditions": "holdfast.certificates.conditions",
    "Deletion": "holdfast.smoothing.noise",
    "DescentMonitor": "holdfast.smoothness.monitor",
    "Estimate": "holdfast.types",
    "Gaussian": "holdfast.smoothing.noise",
    "Graph": "holdfast.graph.ir",
    "HoldfastError": "holdfast.errors",
    "HoldfastWarning": "holdfast.errors",
    "InvalidInput": "holdfast.errors",
    "Knowledge": "holdfast.knowledge_continuity.result",
    "Outcome": "holdfast.types",
    "SubstitutionCertificates": "holdfast.language.result",
    "TextAttacks": "holdfast.language.attack",
    "Uniform": "holdfast.smoothing.noise",
    "Unsupported": "holdfast.errors",
    "attack": "holdfast.attacks.attack",
    "attack_texts": "holdfast.language.attack",
    "audit": "holdfast.audits.audit",
    "capture": "holdfast.graph.capture",
    "certify": "holdfast.certificates.certify",
    "certify_substitutions": "holdfast.language.certify",
    "conditions": "holdfast.certificates.conditions",
    "descent": "holdfast.smoothness.descent",
    "knowledge": "holdfast.knowledge_continuity.knowledge",
    "lipschitz": "holdfast.brackets.lipschitz",
    "load_model": "holdfast.sources.models",
    "load_substitutions": "holdfast.sources.substitutions",
    "show_progress": "holdfast.progress",
}

__all__ = [
    "Attacks",
    "Ball",
    "Box",
    "Bracket",
    "Certificates",
    "Conditions",
    "Deletion",
    "DescentMonitor",
    "Estimate",
    "Gaussian",
    "Graph",
    "HoldfastError",
    "HoldfastWarning",
    "InvalidInput",
    "Knowledge",
    "Outcome",
    "SubstitutionCertificates",
    "TextAttacks",
    "Uniform",
    "Unsupported",
    "__version__",
    "attack",
    "attack_texts",
    "audit",
    "capture",
    "certify",
    "certify_substitutions",
    "conditions",
    "descent",
    "knowledge",
    "lipschitz",
    "load_model",
    "load_substitutions",
    "show_progress",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import holdfast` stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
