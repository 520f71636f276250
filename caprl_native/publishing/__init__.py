"""An export as others can use it: a folder with a model card, and its way to a hub."""
