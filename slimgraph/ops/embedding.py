"""Tables of vectors: the entries of a vector are channels, the rows are what indices mean."""

from typing import Any

from torch import nn

from slimgraph.labels import Value, along
from slimgraph.rules import ModuleForm, Rule, Site


def embedding(site: Site, input: Value, weight: Value, *args: Any, **kwargs: Any) -> Value:
    """Look up rows; the rows stay, also where the table is another layer's weight too."""
    if weight.parameter is None:
        site.freeze(weight, "is looked up by indices")
        return site.value()
    site.ledger.pin(weight.parameter, 0, site.node, "is looked up by indices")
    if kwargs.get("max_norm") is not None:
        site.ledger.pin(weight.parameter, 1, site.node, "is renormalised while it is looked up")
    labels = site.open(weight, 1, "out")
    return (
        site.value(along(labels, len(site.shape) - 1, site.shape))
        if len(labels) > 1
        else (site.value())
    )


def _sizes(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


_LOOKUP = ModuleForm((nn.Embedding, nn.EmbeddingBag), ("weight",), ("max_norm",), _sizes)
RULES = (Rule(("embedding", "embedding_bag"), "lookup", embedding, (_LOOKUP,)),)
