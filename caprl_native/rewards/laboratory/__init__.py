"""Tries to cheat the rewards of a config: `tools/attack_rewards.py`, docs/attacks.md."""
