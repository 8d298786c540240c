"""ONNX Runtime: inference only."""

import io
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks import network
from benchmarks.peers.base import Peer
from benchmarks.peers.layout import channels_first


class OnnxRuntime(Peer):
    """All graph optimisations, as it comes; its threads spin between calls unless it is stopped."""

    packages = ("onnxruntime",)

    def build(self) -> None:
        self.images = self.x.reshape(-1, 1, 28, 28)  # with one channel, NHWC is NCHW
        self.open(graph(channels_first(network.weights())))

    def build_other(self, weights: list[np.ndarray]) -> None:
        """As PyTorch's exporter writes it, with the softmax that PyTorch's loss contains."""
        import torch

        from benchmarks.peers import torch_networks

        images = torch_networks.images(self.network, self.x)
        module = torch.nn.Sequential(torch_networks.module(self.network, weights), torch.nn.Softmax(1)).eval()
        file, any_batch = io.BytesIO(), {"x": {0: "N"}, "out": {0: "N"}}
        names = {"input_names": ["x"], "output_names": ["out"], "dynamic_axes": any_batch}
        torch.onnx.export(module, (images[:1],), file, dynamo=False, opset_version=17, **names)
        self.images = images.numpy()
        self.open(file.getvalue())

    def open(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def inference(self, batch_size: int) -> Callable[[], np.ndarray]:
        feed = {"x": self.images[:batch_size]}
        return lambda: self.session.run(["out"], feed)[0]

    def outputs(self, samples: int) -> np.ndarray:
        return self.inference(samples)()


def graph(weights: list[np.ndarray]) -> bytes:
    """The network as an ONNX file."""
    names = ("w1", "b1", "w2", "b2", "w3", "b3")
    two = [2, 2]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["conv1"]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("MaxPool", ["relu1"], ["pool1"], kernel_shape=two, strides=two),
        helper.make_node("Conv", ["pool1", "w2", "b2"], ["conv2"]),
        helper.make_node("Relu", ["conv2"], ["relu2"]),
        helper.make_node("MaxPool", ["relu2"], ["pool2"], kernel_shape=two, strides=two),
        helper.make_node("Flatten", ["pool2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["out"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 28, 28])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 10])
    constants = [numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True)]
    made = helper.make_graph(nodes, "mnist", [x], [out], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
