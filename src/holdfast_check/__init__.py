"""The independent checker of certificate files: no line of `holdfast`, and short enough to read.

Begin with `proof.py`; `docs/check.md` says what is proved and what is trusted.
"""

from holdfast_check.certificate import Report as Report
from holdfast_check.certificate import check as check
from holdfast_check.files import Rejected as Rejected
