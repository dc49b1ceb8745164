"""Training that ends in a smaller model: `train(model, load_data(...), Recipe(...), folder)`."""

from slimgraph.train.data import Data, load_data
from slimgraph.train.loop import Result, train
from slimgraph.train.recipe import Recipe

__all__ = ["Data", "Recipe", "Result", "load_data", "train"]
