"""No correction: `type = "none"` switches an entry of the defaults or of a recipe off."""

from __future__ import annotations

from typing import Literal

from caprl_native.algorithm.inputs import CorrectionInputs
from caprl_native.algorithm.registries import CORRECTIONS
from caprl_native.registry import Options


class NoCorrection(Options):
    """None: switches a named correction off."""

    type: Literal["none"] = "none"


@CORRECTIONS.register(NoCorrection)
def none(inputs: CorrectionInputs, options: NoCorrection) -> None:
    """Nothing."""
    return None
