"""The demo's world: one subject with many attributes, rendered, captioned and asked about."""
