"""A store that asks an upstream server what it does not know."""
