"""Language models that answer requests: open ones on this machine, and those behind an endpoint."""
