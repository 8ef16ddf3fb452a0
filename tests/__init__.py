"""A package, so that no other installed one of this name is taken for it."""
