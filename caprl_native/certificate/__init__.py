"""Whether a model directory may be trained: trainer, engine and transformers are compared on it."""
