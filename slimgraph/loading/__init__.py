"""Opening whatever model file a user has, without running code from it."""

from slimgraph.loading.dispatch import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]
