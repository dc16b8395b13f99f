"""The coordinator: listeners, sessions, permissions, routing to the workers, and their supervision."""
