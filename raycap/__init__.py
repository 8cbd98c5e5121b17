"""Train a photo captioner and run it over very many photos, on Ray."""

__version__ = "0.1.0"
