"""Readers of rating files, one module a source. Each returns canonical interactions and items (see ``canonical``)."""
