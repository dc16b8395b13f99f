"""Tools for databases that shardhash keeps its data in (stores/postgresql)."""
