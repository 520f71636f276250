"""Old names of settings, with the new ones that their errors name."""

MOVED = {
    "reward.alpha": "reward.terms.timestamps.weight",
    "reward.beta": "reward.terms.length.weight",
    "reward.accuracy.": "reward.terms.accuracy.",
    "reward.timestamps.": "reward.terms.timestamps.",
    "reward.length.": "reward.terms.length.",
    "algorithm.advantage": "algorithm.advantage.type",
    "algorithm.std": "algorithm.advantage.std",
    "algorithm.std_eps": "algorithm.advantage.eps",
    "algorithm.loss": "algorithm.loss.type",
    "algorithm.clip_low": "algorithm.loss.clip_low",
    "algorithm.clip_high": "algorithm.loss.clip_high",
    "algorithm.dual_clip": "algorithm.loss.dual_clip",
    "algorithm.kl": "algorithm.kl.type",
    "algorithm.kl_weight": "algorithm.kl.weight",
    "algorithm.reference": "algorithm.kl.reference",
    "algorithm.tis_cap": "algorithm.corrections.tis.cap; "
    'in place of 0: algorithm.corrections.tis.type = "none"',
}
