"""plait: an IR-centric graph compiler.

    import plait

    g = plait.lower(model, inputs, dynamic={"image": {0: "B"}})
    exe = plait.compile(g, target="cpu")
    p = plait.predict(g, device="a100-sxm4-40gb", dims={"B": 8})

Importing plait imports neither torch, tvm, dgl, xgboost nor tensorflow: each is
loaded by the first call that needs it.
"""

from plait.api import (
    CompileError,
    Graph,
    InputError,
    LoweringError,
    PlaitError,
    PredictError,
    VerifyError,
    annotate_density,
    compile,
    diff,
    interpret,
    load,
    lower,
    optimize,
    parse,
    predict,
    quantize,
    save_onnx,
    to_nir,
    to_onnx,
    to_spiking,
    write_nir,
)

__version__ = "0.1.0"

__all__ = [
    "CompileError",
    "Graph",
    "InputError",
    "LoweringError",
    "PlaitError",
    "PredictError",
    "VerifyError",
    "__version__",
    "annotate_density",
    "compile",
    "diff",
    "interpret",
    "load",
    "lower",
    "optimize",
    "parse",
    "predict",
    "quantize",
    "save_onnx",
    "to_nir",
    "to_onnx",
    "to_spiking",
    "write_nir",
]
