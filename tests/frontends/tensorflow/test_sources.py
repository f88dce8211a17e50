"""What can be lowered: models, functions and SavedModel folders, their inputs and their dims."""

import logging
import os

import numpy as np
import pytest

import plait
from plait.frontends import register
from plait.frontends.tensorflow import lower_tensorflow, lowers
from plait.frontends.tensorflow.registry import supported_operators
from plait.ir import InputError, LoweringError
from plait.ir.ops import core


def f32(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def test_dynamic_batch_on_cpu(keras, model, rng):
    L = keras.layers
    net = model(
        (8, 8, 3), L.Conv2D(4, 3, strides=2, padding="same"), L.BatchNormalization(), L.Flatten(), L.Dense(3)
    )
    graph = lower_tensorflow(net, dynamic={"x": {0: ("N", 1, 16)}})
    assert str(graph.inputs[0].type) == "f32[N,8,8,3]"
    assert graph.bounds() == {"N": (1, 16)}
    run = plait.compile(graph, target="cpu", threads=1, isolate=False, cache=False)
    for batch in (1, 5):
        x = f32(rng, batch, 8, 8, 3)
        np.testing.assert_allclose(run(x), np.asarray(net(x)), rtol=1e-4, atol=1e-5)


def test_nested_models_and_several_results(keras, check, rng):
    L = keras.layers
    inner = keras.Sequential([keras.Input((4,)), L.Dense(5, activation="relu"), L.Dense(3)], name="inner")
    a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    net = keras.Model({"left": a, "right": b}, {"sum": L.Add()([inner(a), inner(b)]), "last": inner(b)})
    graph = lower_tensorflow(net)
    arrays = {"left": f32(rng, 2, 4), "right": f32(rng, 2, 4)}
    expected = net(arrays)
    results = dict(zip(sorted(expected), plait.interpret(graph, arrays), strict=True))
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(results[name]), np.asarray(value), rtol=1e-4, atol=1e-5)
    assert len(graph.constants) == 4  # the layers of the inner model are shared


def test_subclassed_model(tf, keras, check, rng):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3, name="dense")

        def call(self, x, training=False):
            if training:
                x = x + 1.0
            return tf.nn.relu(self.dense(x))

    net, x = Net(), f32(rng, 2, 4)
    with pytest.raises(LoweringError, match="does not say what its inputs are"):
        lower_tensorflow(Net())
    net(x)
    graph = check(net, x, inputs=[x], dynamic={"x": {0: "B"}})
    assert [op.opname for op in graph.walk()] == ["nn.linear", "core.add", "nn.relu"]
    relu = list(graph.walk())[-1]
    assert relu.loc.origins[0].file == "test_sources.py"


def test_location_in_a_function(tf):
    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="x")])
    def net(x):
        return tf.exp(x)

    (op,) = lower_tensorflow(net).walk()
    origin = op.loc.origins[0]
    assert (origin.file, origin.line) == ("test_sources.py", net.python_function.__code__.co_firstlineno + 2)


def test_saved_model(tf, keras, model, rng, tmp_path):
    L = keras.layers
    net = model((6, 6, 3), L.Conv2D(4, 3, name="conv1"), L.GlobalAveragePooling2D(), L.Dense(2, name="head"))
    net.export(str(tmp_path / "saved"), verbose=False)
    x = f32(rng, 3, 6, 6, 3)
    for path in (tmp_path / "saved", str(tmp_path / "saved")):
        graph = lower_tensorflow(path)
        assert str(graph.inputs[0].type) == "f32[B,6,6,3]"
        (y,) = plait.interpret(graph, [x])
        np.testing.assert_allclose(np.asarray(y), np.asarray(net(x)), rtol=1e-4, atol=1e-5)
    assert {"conv1.kernel", "head.kernel"} <= set(graph.constants)
    with pytest.raises(LoweringError, match="no signature 'serve_default'; did you mean"):
        lower_tensorflow(path, signature="serve_default")


def test_signatures_of_a_module(tf, rng, tmp_path):
    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable([1.0, 2.0], name="scale")

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def scaled(self, x):
            return {"y": x * self.scale}

    net = Net()
    tf.saved_model.save(net, str(tmp_path), signatures={"scaled": net.scaled})
    graph = lower_tensorflow(tmp_path, signature="scaled")
    x = f32(rng, 3, 2)
    (y,) = plait.interpret(graph, [x])
    np.testing.assert_allclose(np.asarray(y), x * np.float32([1.0, 2.0]))
    assert list(graph.constants) == ["scale"]


def test_folders_that_are_none(tf, tmp_path):
    with pytest.raises(InputError, match="is no SavedModel folder"):
        lower_tensorflow(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x99nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        lower_tensorflow(tmp_path)


def test_concrete_function(tf, check, rng):
    @tf.function
    def net(x, y):
        return x + y

    concrete = net.get_concrete_function(
        tf.TensorSpec([None, 3], tf.float32, name="x"), tf.TensorSpec([3], tf.float32, name="y")
    )
    graph = check(concrete, f32(rng, 2, 3), f32(rng, 3))
    assert [str(value) for value in graph.inputs] == ["%x", "%y"]
    with pytest.raises(LoweringError, match="axis 0, which the function was traced with as 3"):
        lower_tensorflow(concrete, dynamic={"y": {0: "N"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic": {"z": {0: "B"}}}, "dynamic names 'z', which is no input"),
        ({"dynamic": {"x": {5: "B"}}}, "dynamic names axis 5"),
        ({"dynamic": {"x": {0: "not a name"}}}, "dynamic calls axis 0 'not a name'"),
        ({"inputs": {"z": np.zeros(3)}}, "inputs names 'z'"),
        ({"inputs": {"x": np.zeros((2, 7), np.float32)}}, r"example array is float32\[2, 7\]"),
        ({"inputs": [np.zeros(1), np.zeros(1)]}, "2 examples are given for 1 inputs"),
        ({"dynamic": {"x": {1: "C"}}}, "has C features but"),
    ],
)
def test_arguments_that_do_not_fit(keras, model, options, message):
    with pytest.raises(LoweringError, match=message):
        lower_tensorflow(model((4,), keras.layers.Dense(3)), **options)


def test_things_that_are_no_model(tf):
    with pytest.raises(LoweringError, match="cannot lower a builtins.int"):
        lower_tensorflow(3)


def test_one_report_of_everything_unsupported(tf):
    @tf.function(input_signature=[tf.TensorSpec([2, 3], tf.float32, name="x")])
    def net(x):
        with tf.name_scope("block"):
            y = tf.math.bessel_i0(x) + tf.math.bessel_i0(x + 1)
        return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.math.zeta(y, y), lambda: y)

    with pytest.raises(LoweringError) as caught:
        lower_tensorflow(net)
    text = str(caught.value)
    assert "3 operators of 2 kinds" in text
    assert "BesselI0 x2 in 'block/bessel_i0/BesselI0' (block/bessel_i0 at test_sources.py:" in text
    assert "Zeta x1" in text
    assert '@register("tf::BesselI0")' in text


def test_unsupported_forms_are_reported_together(tf):
    @tf.function(input_signature=[tf.TensorSpec([1, 4, 4, 6], tf.float32, name="x")])
    def net(x):
        first = tf.nn.max_pool(x, [1, 1, 1, 2], [1, 1, 1, 2], "VALID", name="first")
        second = tf.nn.max_pool(x, [1, 1, 1, 3], [1, 1, 1, 3], "VALID", name="second")
        return tf.nn.relu(first), second + 1

    with pytest.raises(LoweringError) as caught:
        lower_tensorflow(net)
    entries = caught.value.to_dict()["operators"]
    assert [(entry["operator"], entry["places"]) for entry in entries] == [
        ("MaxPool", ["'first'"]),
        ("MaxPool", ["'second'"]),
    ]
    assert "pooling with ksize [1, 1, 1, 3], over the batch or the channels, has no lowering" in str(
        caught.value
    )


def test_rules_of_the_user(tf, check, rng):
    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="x")])
    def net(x):
        return tf.math.bessel_i0e(x)

    @register("tf::BesselI0e")
    def rule(call):
        return call.emit(core.Neg(call.value(0)))

    (op,) = lower_tensorflow(net).walk()
    assert op.opname == "core.neg"
    with pytest.raises(LoweringError, match="Relu has a lowering rule"):
        lowers("Relu")(rule)


def test_the_log_settings_of_the_user_are_kept(keras, model):
    logger = logging.getLogger("tensorflow")
    before = logger.level, os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    lower_tensorflow(model((4,), keras.layers.Dense(3)))
    assert (logger.level, os.environ.get("TF_CPP_MIN_LOG_LEVEL")) == before


def test_how_many_ops_have_rules(tf):
    import plait.frontends.tensorflow.operators  # noqa: F401

    known = set(dir(tf.raw_ops))
    assert len(supported_operators() & known) >= 200
