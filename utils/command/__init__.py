"""From argv to settings: the options, what can be checked of them at once, and how errors are said.

Nothing here imports torch, so that help, typos and missing paths are answered at once.
"""
