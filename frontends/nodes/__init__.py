"""What the frontends of node-list formats (ONNX, TensorFlow) share: operands, calls, graph building, rules.

Each frontend lowers a list of nodes: a rule is given a call, which holds the operands
and attributes of one node, and emits IR.  What depends on the format - how values are
named, laid out and folded - stays with the frontend.
"""
