"""Memories of a long video's segments: what a rollout must look like, how it is judged and paid."""
