"""Long jobs over many entries: any model, any number of copies, results in chunks on disk."""
