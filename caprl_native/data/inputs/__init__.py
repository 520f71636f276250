"""The inputs of a job, read entry by entry: media, folders, lists, tar files."""

from caprl_native.data.inputs.inputs import Inputs

__all__ = ["Inputs"]
