"""What all pages are made of: theme, elements, lists, time lines; see `document.py`."""
