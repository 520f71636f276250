"""Importing this makes a process ignore the signals that ask a run to stop.

Only the loader's fork server does, before anything else: what a whole process group is sent
(Ctrl-C, the end of a terminal, a batch system's warning) is for the trainer, which finishes its
step and needs the fork server and the workers for it.
"""

from caprl_native.data.workers import ignore_signals

ignore_signals()
