"""What Keras has and tinyconv has not: to ask for it is an error that says what to use instead."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from tinyconv.checking.messages import closest

OWN_LAYER = "a layer of your own, in NumPy: see tinyconv.Layer"
OWN_LOOP = "train_on_batch in a loop of your own"
STEPS = "fit with a callback, or " + OWN_LOOP
RATES = "Adam, AdamW, RMSprop or SGD"
MEASURED = "NumPy on model.predict, in a callback's on_epoch_end"
PICTURE = "model.summary(), or model.explore(x, y) in a browser"
AHEAD = "the data set's own code: image_dataset_from_directory resizes, a utils.PyDataset can do anything"

# By where it is looked for, then by name.
INSTEAD: dict[str, dict[str, str]] = {
    "": {
        "ops": "layers, activations and + - * / on tensors; or " + OWN_LAYER,
        "backend": "NumPy, or tinyconv.kernels for what computes",
        "applications": "a model of layers, and load_model for a '.keras' file with its weights",
        "config": "float32, in which tinyconv computes, and channels last",
        "Variable": "Layer.add_weight",
        "KerasTensor": "Input(shape)",
        "mixed_precision": "float32, in which tinyconv computes",
        "constraints": "regularizers",
        "preprocessing": "tinyconv.utils, and layers",
    },
    "distribution": dict.fromkeys(
        ("DeviceMesh", "LayoutMap", "ModelParallel", "TensorLayout", "distribute_tensor"),
        "DataParallel, where every process has the whole model",
    ),
    "layers": {
        **dict.fromkeys(("Lambda", "Dot", "dot", "Permute", "Cropping2D", "PReLU", "MultiHeadAttention"), OWN_LAYER),
        **dict.fromkeys(("Embedding", "LSTM", "GRU", "SimpleRNN", "Bidirectional", "TimeDistributed"), OWN_LAYER),
        **dict.fromkeys(("Conv1D", "MaxPooling1D", "GlobalMaxPooling1D"), "the layer for two axes, on a height of 1"),
        **dict.fromkeys(("Conv3D", "MaxPooling3D"), "the layer for two axes"),
        **dict.fromkeys(("Resizing", "CenterCrop", "RandomContrast", "RandomBrightness"), AHEAD),
        "RandomCrop": "RandomTranslation, or " + AHEAD,
        "Normalization": "Rescaling(1 / deviation, -mean / deviation), of your own data",
        "GroupNormalization": "LayerNormalization or BatchNormalization",
        "GaussianNoise": "Dropout",
        "SpatialDropout2D": "Dropout",
        "Identity": "Activation('linear')",
        "TextVectorization": "tokens of your own: tinyconv is about images",
    },
    "losses": {"KLDivergence": "CategoricalCrossentropy", "Hinge": "BinaryCrossentropy"},
    "metrics": {
        "Mean": "np.mean",
        "RootMeanSquaredError": "MeanSquaredError, and its root",
        "F1Score": "Precision and Recall",
        **dict.fromkeys(("MeanIoU", "TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives"), MEASURED),
    },
    "optimizers": dict.fromkeys(
        ("Nadam", "Adamax", "Adagrad", "Adadelta", "Adafactor", "Ftrl", "Lion", "Lamb", "Muon"), RATES
    ),
    "optimizers.schedules": {"CosineDecayRestarts": "CosineDecay, or callbacks.LearningRateScheduler"},
    "callbacks": {
        "OrbaxCheckpoint": "ModelCheckpoint, or BackupAndRestore for a run that may be interrupted",
        "ProgbarLogger": "fit(verbose=1), which shows a bar",
        "RemoteMonitor": "LambdaCallback(on_epoch_end=...) with a function that sends the logs",
        "SwapEMAWeights": "a Callback of your own that averages model.get_weights() in on_train_batch_end",
        "TensorBoard": "CSVLogger for a table, History.plot() for curves, or LambdaCallback",
    },
    "utils": {
        "plot_model": PICTURE,
        "model_to_dot": PICTURE,
        "get_file": "urllib.request.urlretrieve",
        "split_dataset": "slices of the arrays, or fit(validation_split=...)",
        "Progbar": "fit(verbose=1), which shows a bar",
    },
    "datasets": dict.fromkeys(
        ("cifar100", "imdb", "reuters", "boston_housing", "california_housing"),
        "mnist, fashion_mnist or cifar10; or datasets.load(name), by TensorFlow Datasets",
    ),
    "Model": {
        **dict.fromkeys(("train_step", "test_step", "predict_step", "make_train_function"), STEPS),
        **dict.fromkeys(
            ("compute_loss", "compute_metrics", "compiled_loss"), "compile(loss=..., metrics=...), or " + STEPS
        ),
        **dict.fromkeys(("add_loss", "losses"), "regularizers, or another output with a loss of its own"),
        "call": "Model(inputs, outputs), with layers called on Input(...), and model(x)",
        "add_metric": "metrics of compile()",
        "metrics_names": "log_names, or evaluate(..., return_dict=True)",
        "compute_output_shape": "output_shape",
        "export": "tinyconv.export.to_onnx(model, path)",
        "quantize": "float32, in which tinyconv computes",
        "predict_classes": "np.argmax(model.predict(x), axis=-1)",
        **{f"{name}_generator": f"{name}, which takes generators" for name in ("fit", "evaluate", "predict")},
    },
    "Layer": {
        **dict.fromkeys(("add_loss", "losses"), "regularizer of add_weight, or kernel_regularizer"),
        **dict.fromkeys(("add_metric", "compute_mask"), "code of your own beside the model"),
    },
    "Optimizer": {
        **dict.fromkeys(("apply_gradients", "apply", "minimize"), "model.fit, or " + OWN_LOOP),
        "exclude_from_weight_decay": "weight_decay=None, and kernel_regularizer of the layers that shall decay",
        "variables": "model.optimizer_state()",
    },
}
NOTHING: Mapping[str, str] = MappingProxyType({})


def missing(where: str, name: str, options: Iterable[str] = ()) -> AttributeError:
    """The error that there is no such name: in a module, "layers", or of an object of a class, "Model"."""
    instead = INSTEAD.get(where, NOTHING).get(name)
    path = f"{where}.{name}" if where else name
    if instead is not None:
        return AttributeError(f"keras.{path} is not supported by tinyconv. Fix: {instead}.")
    close = closest(name, options)
    hint = "" if close is None else f" Did you mean {close!r}?"
    return AttributeError(f"tinyconv has no {path!r}.{hint}")


def getter(where: str, options: Iterable[str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module."""

    def __getattr__(name: str) -> Any:
        error = missing(where, name, options)
        error.name = name
        raise error

    return __getattr__
