"""Measurements of shardhash and of its peers. Each command says what it measured, on what machine, and how."""
