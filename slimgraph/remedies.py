"""What would free channels that have to stay: one remedy per kind of reason.

The beginning of a reason's message tells its kind. A rule with a new message gets a row here.
"""

ASKED = "was asked to stay (freeze=)"
OUTPUT = "reaches the model's output"
HOSTED = "goes to code of the model's own that cannot be traced"
SINGLE = "has a single channel"
SHARED = "is shared by heads that leave as wholes"
TOGETHER = "all its channels can only leave together"
_RULE = "add a rule (docs/add-an-op.md), or compute the same with ops that have one"
_COUNTS = "nothing, as the result depends on how many channels there are; a sum does not"
_PARTNER = "make the other value a parameter, or compute it from channels that can leave"
_GROUPED = "make the weight a parameter of a module, or the convolution one without groups"
_SPATIAL = "put the channels into another dim than the one that the op mixes"
_APART = "take slices, or index with numbers where the code must have this very channel"
_DATA = "nothing: what positions and conditions are made of has to stay"
_LAYOUT = "bring the channels of all of them into the same dim first"
REMEDIES = {
    ASKED: "leave its name out of `freeze`",
    OUTPUT: "nothing: outputs keep their sizes",
    HOSTED: "write that code so that it does not depend on data, or give it whole channels",
    "is put into a container": "return tensors, tuples or dicts from this part of the model",
    "is written at positions": "write to slices that do not depend on data",
    SINGLE: "nothing: one channel has to be left",
    SHARED: 'analyse with `heads="dims"`: then positions leave, the same ones of all heads',
    TOGETHER: "nothing: one of them has to be left",
    "no rule says": _RULE,
    "the rule of": "spell the call as torch documents it, or bring a rule (docs/add-an-op.md)",
    "this `": "remove the hooks, or the parametrization "
    "(`torch.nn.utils.parametrize.remove_parametrizations`), before tracing",
    "its size is read": "compute with `x.shape[dim]` or `x.size(dim)`, which are kept up to date",
    "its bytes": "convert with `x.to(dtype)` instead",
    "its pooling indices": "pool without `return_indices`",
    "meets positions": _PARTNER,
    "meets a value": _PARTNER,
    "meets other channels": _LAYOUT,
    "is joined with a value whose": _PARTNER,
    "is joined with values": _LAYOUT,
    "is indexed by a tensor": "index with numbers and slices, which move along",
    "is padded": "pad with `mode='constant'`, or along dims without channels",
    "is taken apart": _APART,
    "is read by itself": _APART,
    "is selected here": "free the channels of that selection, or leave the selection out",
    "is rolled": "roll along dims without channels",
    "is mixed with other": _COUNTS,
    "is reduced together": _COUNTS,
    "is compared": _COUNTS,
    "positions along this dim": _SPATIAL,
    "a convolution mixes": _SPATIAL,
    "is normalised": _SPATIAL,
    "is read along": "take the diagonal of dims without channels",
    "is multiplied by numbered": "write `einsum` with an equation, such as `'bchw,oc->bohw'`",
    "is multiplied along": "give `tensordot` its dims as numbers",
    "is a key that": "nothing: each key is compared with all others",
    "is convolved over": _SPATIAL,
    "is spread over dims": _LAYOUT,
    "is looked up": "nothing: every entry of a table may be asked for",
    "decides what": _DATA,
    "are moved to positions": _DATA,
    "says which positions": _DATA,
    "says where": _DATA,
    "its `": "nothing: this option needs every channel",
    "meets every channel": "use `nn.Linear` on a concatenation",
    "is pooled over windows": "pool with fixed windows",
    "runs along": "nothing: the order of a sequence counts",
    "stands for a layer": "nothing: layers of a recurrent network stay",
    "is sampled": _SPATIAL,
    "is cut into windows": _SPATIAL,
    "moves the positions": "nothing: the kernel keeps its size",
    "scales the positions": "nothing: the kernel keeps its size",
    "is scaled as a whole": "nothing: one number scales all of them",
    "scales channels that stay": "free the channels that it scales",
    "is a kernel position": "nothing: the kernel keeps its size",
    "a computed weight": _GROUPED,
    "is the computed weight": _GROUPED,
    "feeds a grouped": _GROUPED,
}


def remedy(message: str) -> str:
    """Say what would free channels that have to stay.

    Args:
        message: Of the reason.

    Example:
        >>> remedy("is padded in mode `reflect`")
        "pad with `mode='constant'`, or along dims without channels"
    """
    found = (text for start, text in REMEDIES.items() if message.startswith(start))
    return next(found, "change the rule that says so, or the model here")
