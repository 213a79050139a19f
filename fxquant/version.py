"""The version of the library, which saved models name."""

__version__ = "0.1.0"
