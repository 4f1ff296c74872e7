"""Immutable objects, mutable heads and live workspaces: what psf keeps. Synchronous; threads serve it."""
