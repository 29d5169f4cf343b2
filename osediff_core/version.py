"""The versions of the package, which pyproject.toml has too, and of what the command prints as JSON."""

__version__ = "0.1.0"

SCHEMA_VERSION = 1  # of the command's JSON; another key does not raise it, another meaning does
