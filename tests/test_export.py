"""ONNX export, executed by ONNX Runtime."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given

import tinyconv
from tests.strategies import examples, pools, seeds, windows
from tinyconv import export, layers

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LAYERS = {
    "conv2d": [layers.Conv2D(3, 2)],
    "conv2d, no bias": [layers.Conv2D(3, (3, 2), padding="same", strides=2, use_bias=False)],
    "conv2d, dilated": [layers.Conv2D(3, 2, dilation_rate=(2, 1), activation="elu")],
    "max pooling": [layers.MaxPooling2D(2, padding="same")],
    "max pooling, overlapping": [layers.MaxPooling2D(3, strides=1)],
    "average pooling": [layers.AveragePooling2D(2, padding="same")],
    "average pooling of the whole": [layers.AveragePooling2D((5, 6))],
    "global average pooling": [layers.GlobalAveragePooling2D()],
    "global average pooling, kept": [layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(2, 1)],
    "batch normalisation": [layers.Conv2D(4, 2), layers.BatchNormalization()],
    "batch normalisation of rows": [layers.Flatten(), layers.BatchNormalization(center=False)],
    "batch normalisation, no scale": [layers.BatchNormalization(scale=False, epsilon=0.1)],
    "dense on images": [layers.Dense(3, activation="tanh"), layers.Conv2D(2, 2)],
    "dense": [layers.Conv2D(3, 2), layers.Flatten(), layers.Dense(4, use_bias=False)],
    "softmax over channels": [layers.Conv2D(3, 2, activation="softmax"), layers.MaxPooling2D()],
    "relu": [layers.Activation("relu")],
    "sigmoid": [layers.Activation("sigmoid")],
    "leaky relu": [layers.LeakyReLU(0.1), layers.Activation("leaky_relu")],
    "elu as a layer": [layers.ELU(0.7)],
    **{name: [layers.Conv2D(3, 2, activation=name)] for name in tinyconv.activations.NAMES},
    "depthwise": [layers.DepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=2)],
    "depthwise, no bias": [layers.DepthwiseConv2D((2, 3), use_bias=False, dilation_rate=(2, 1), activation="relu")],
    "separable": [layers.SeparableConv2D(4, 3, padding="same", activation="relu"), layers.MaxPooling2D()],
    "transposed": [layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu")],
    "transposed, valid": [layers.Conv2DTranspose(3, (2, 3), strides=(3, 1), use_bias=False), layers.Conv2D(2, 2)],
    "transposed, dilated": [layers.Conv2DTranspose(3, 3, dilation_rate=2)],
    "zero padding": [layers.ZeroPadding2D(((1, 2), (0, 3))), layers.Conv2D(2, 3), layers.ZeroPadding2D(1)],
    "upsampling": [layers.UpSampling2D((2, 3)), layers.Conv2D(2, 3), layers.UpSampling2D()],
    "layer normalisation": [layers.LayerNormalization(), layers.Conv2D(3, 2), layers.LayerNormalization([1, 2, 3])],
    "layer normalisation, no scale": [layers.Flatten(), layers.LayerNormalization(center=False, scale=False)],
    "relu with bounds": [layers.ReLU(2.0, 0.1, 0.5), layers.ReLU()],
    "dropout": [layers.Dropout(0.5)],
    "augmentation": [
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.1),
        layers.RandomShear(0.1),
        layers.RandomTranslation(0.1, 0.1),
        layers.Conv2D(2, 3),
    ],
    "flatten twice": [layers.Flatten(), layers.Flatten()],
    "linear": [layers.Activation("linear")],
    "global max pooling": [layers.GlobalMaxPooling2D()],
    "global max pooling, kept": [layers.GlobalMaxPooling2D(keepdims=True), layers.Conv2D(2, 1)],
    "reshape": [layers.Conv2D(3, 2), layers.Reshape((-1, 3, 2)), layers.Conv2D(2, 2), layers.Reshape((-1, 4))],
    "rescaling": [layers.Conv2D(3, 2), layers.Rescaling(0.5, -1)],
    "softmax as a layer": [layers.Softmax(), layers.Conv2D(2, 1)],
}


def build(stack, input_shape=(5, 6, 2), seed=0):
    """A model with weights, moving statistics included, that are nothing special."""
    tinyconv.utils.set_random_seed(seed)
    model = tinyconv.Sequential([tinyconv.Input(input_shape), *stack])
    model.compile(backend="reference")
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.2, 1.0, w.shape) for w in model.get_weights()])
    return model


def compare(model, batch_sizes=(1, 3), **options):
    """The largest difference between tinyconv and ONNX Runtime, which loads the exported bytes."""
    proto = export.to_onnx(model, **options)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng, worst = np.random.default_rng(1), 0.0
    for size in batch_sizes:
        x = rng.standard_normal((size, *model.input_shape[1:])).astype(np.float32)
        theirs, ours = session.run(None, {"input": x})[0], model.predict(x)
        assert theirs.shape == ours.shape
        worst = max(worst, np.abs(theirs - ours).max() / max(1, np.abs(ours).max()))
    return worst


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_computes_the_same_in_onnx_runtime(name, record_property):
    worst = compare(build(LAYERS[name]))
    record_property("largest relative difference", worst)
    assert worst < 1e-5


def test_every_layer_type_is_tested():
    tested = {type(layer) for stack in LAYERS.values() for layer in stack}
    found = {getattr(layers, name) for name in layers.__all__} - {layers.Layer, layers.WeightSpec}
    kinds = {kind for kind in found if isinstance(kind, type)}
    joins = {layers.Add, layers.Average, layers.Concatenate, layers.Maximum, layers.Minimum}
    joins |= {layers.Multiply, layers.Subtract}
    assert kinds - {layers.InputLayer} - joins == tested  # and the joins in test_graphs.py


@examples(25)
@given(drawn=windows(keras=True), seed=seeds)
def test_any_convolution_agrees(drawn, seed):
    conv = layers.Conv2D(
        drawn.filters, drawn.window, strides=drawn.strides, dilation_rate=drawn.dilation, padding=drawn.mode
    )
    assert compare(build([conv], (*drawn.size, drawn.channels), seed), (2,)) < 1e-5


@examples(25)
@given(drawn=pools(), seed=seeds)
def test_any_pooling_agrees(drawn, seed):
    for kind in (layers.MaxPooling2D, layers.AveragePooling2D):
        pool = kind(drawn.window, strides=drawn.strides, padding=drawn.mode)
        assert compare(build([pool], (*drawn.size, drawn.channels), seed), (2,)) < 1e-5


def mnist_model():
    return tinyconv.Sequential(
        [
            tinyconv.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def test_the_mnist_model_agrees_and_is_written_whole(tmp_path):
    model = mnist_model()
    model.compile(backend="reference")
    path = tmp_path / "mnist.onnx"
    export.to_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    (x, _), _ = tinyconv.datasets.mnist.load_data()
    x = (x[:64, ..., None] / 255).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 28, 28, 1]
    np.testing.assert_allclose(session.run(None, {"input": x})[0], model.predict(x), rtol=0, atol=1e-5)
    assert os.listdir(tmp_path) == ["mnist.onnx"]


def test_images_are_transposed_once_on_the_way_in_and_once_on_the_way_out():
    kinds = [node.op_type for node in export.to_onnx(mnist_model()).graph.node]
    assert kinds.count("Transpose") == 2
    assert "Dropout" not in kinds


def test_the_opset_is_the_newest_unless_an_older_one_is_asked_for():
    model = build([layers.BatchNormalization(), layers.Conv2D(2, 2)])
    newest = min(onnx.defs.onnx_opset_version(), export.NEWEST_OPSET)
    assert export.to_onnx(model).opset_import[0].version == newest
    assert export.to_onnx(model, opset=15).opset_import[0].version == 15
    assert compare(model, opset=15) < 1e-5
    with pytest.raises(ValueError, match=r"Invalid opset. Expected one from 15 to \d+. Received: 3."):
        export.to_onnx(model, opset=3)


def test_a_layer_of_your_own_is_named_in_the_error():
    class Doubled(layers.Layer):
        def forward(self, out, x, weights):
            out[...] = 2 * x

    with pytest.raises(ValueError, match=r"Layer 'twice' \(Doubled\) cannot be exported"):
        export.to_onnx(build([Doubled(name="twice")]))


def test_frozen_layers_change_nothing(record_property):
    model = build([layers.Conv2D(4, 2), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)])
    before = compare(model)
    for layer in model.layers[:2]:
        layer.trainable = False
    model.compile("adam", "mse", backend="reference")
    rng = np.random.default_rng(0)
    model.fit(rng.random((8, 5, 6, 2)), rng.random((8, 3)), verbose=0)
    record_property("largest relative difference", after := compare(model))
    assert max(before, after) < 1e-5


def test_without_onnx_the_message_says_what_to_install():
    code = "import sys; sys.modules['onnx'] = None\nimport tinyconv\ntinyconv.export.to_onnx(None)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip().endswith("ImportError: Exporting needs onnx: pip install 'tinyconv[onnx]'")
