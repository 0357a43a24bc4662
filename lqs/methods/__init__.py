"""Published methods, one module a paper."""
