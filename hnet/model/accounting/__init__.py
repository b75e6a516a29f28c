"""What a model costs, counted from its config alone: parameters, FLOPs and memory. Imports no torch, and numpy only
where many windows are counted at once.

Every part says what it costs itself (`hnet.model.config.part`); here are the layers, what is around parts, and sums.

Symbols: d width, h SwiGLU width, di = expand * d, N state size, H heads, K convolution taps, V vocabulary. Counts of
units are, outermost first, the units T_0 of the outermost stage (bytes with the separators between chunks, or tokens of
a token model), then the chunks that each stage makes. A chunk may be several units of the stage inside.
"""

from hnet.model.accounting.activations import activation_breakdown, activation_bytes, training_bytes
from hnet.model.accounting.flops import (
    TRAINING_FLOPS,
    document_flops,
    flops_per_byte,
    mean_keys,
    rule_flops,
    stage_flops,
    training_flops_per_byte,
)
from hnet.model.accounting.parameters import (
    count_lookup_and_linear_weights,
    count_lookup_parameters,
    count_parameters,
    parameter_breakdown,
    parameter_sizes,
)

__all__ = [
    "TRAINING_FLOPS",
    "activation_breakdown",
    "activation_bytes",
    "count_lookup_and_linear_weights",
    "count_lookup_parameters",
    "count_parameters",
    "document_flops",
    "flops_per_byte",
    "mean_keys",
    "parameter_breakdown",
    "parameter_sizes",
    "rule_flops",
    "stage_flops",
    "training_bytes",
    "training_flops_per_byte",
]
