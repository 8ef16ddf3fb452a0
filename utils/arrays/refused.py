"""The refusal of a file that is whole, but not of a kind or size that is read."""


class RefusedError(ValueError):
    """A picture that we refuse ourselves: its reason is shown as it is."""
