"""What differs between model families. Nothing else knows a family's name."""

from caprl_native.policy.families.base import (
    FAMILIES,
    PARTS,
    Family,
    MediaFeatures,
    Prompt,
)
from caprl_native.policy.families.find import family_of

__all__ = ["FAMILIES", "PARTS", "Family", "MediaFeatures", "Prompt", "family_of"]
