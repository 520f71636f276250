"""A run as a page: live while it goes on, and in one file afterwards; see `cli.py`."""
