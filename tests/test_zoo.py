"""Every argument of the public API, given everything that it might be given by mistake.

For each argument there is a rule of what is right, from its name. What is right must be accepted; everything else must
be refused by a ``raise`` of tinyconv's own, never by Python, NumPy or Numba, in a message that says what is wrong, what
was expected and what was received. Nothing in between: what is wrong is not accepted silently.
"""

import linecache
import math
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pytest

import tinyconv
from tests.public import everything, parameters, required
from tinyconv import activations, initializers, layers, losses, metrics, optimizers

LARGEST = 2**31 - 1


class Odd:
    """An object of somebody else's, whose repr fails."""

    def __repr__(self):
        raise RuntimeError("no repr")


VALUES = {
    "None": None,
    "True": True,
    "zero": 0,
    "one": 1,
    "negative": -1,
    "negative fraction": -0.5,
    "fraction": 0.5,
    "more than one": 1.5,
    "whole float": 2.0,
    "NaN": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "2**40": 2**40,
    "10**30": 10**30,
    "10**5000": 10**5000,
    "1e300": 1e300,
    "text": "something",
    "number as text": "3",
    "empty text": "",
    "slash": "a/b",
    "long text": "x" * 10_000,
    "bytes": b"relu",
    "complex": 1j,
    "list": [2, 3],
    "tuple with None": (None, 3),
    "tuple with huge": (2**40, 3),
    "empty list": [],
    "ragged list": [[1, 2], [3]],
    "long list": [1] * 100_000,
    "nested": [[[["a"]]]],
    "dict": {"a": 1},
    "set": {1, 2},
    "array": np.array([1.5, 2.5]),
    "NaN array": np.array([np.nan, 1.0]),
    "scalar array": np.array(3),
    "empty array": np.zeros((0, 3)),
    "object array": np.array([None, "a"], dtype=object),
    "text array": np.array(["a", "b"]),
    "masked array": np.ma.masked_array([1.0, 2.0], [True, False]),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "wrong rank": np.zeros((1, 1, 1, 1, 1, 1)),
    "numpy NaN": np.float32(np.nan),
    "numpy integer": np.int16(3),
    "numpy bool": np.bool_(True),
    "numpy text": np.str_("something"),
    "class": dict,
    "function": len,
    "iterator": iter,
    "odd object": Odd(),
    "Fraction": Fraction(1, 3),
}


# What is right


def real(at_least=-math.inf, at_most=math.inf, *, above=-math.inf, below=math.inf):
    def right(value):
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        try:
            number = float(value)
        except OverflowError:
            return False
        return (
            abs(number) <= tinyconv.checking.arguments.FLOAT32
            and at_least <= number <= at_most
            and above < number < below
        )

    return right


def whole(at_least=1, at_most=LARGEST):
    return lambda v: isinstance(v, Integral) and not isinstance(v, bool) and at_least <= int(v) <= at_most


def one_of(*options):
    return lambda v: type(v) in (type(o) for o in options) and any(type(v) is type(o) and v == o for o in options)


def optional(right):
    return lambda v: v is None or right(v)


def flag(value):
    return isinstance(value, bool | np.bool_) or (isinstance(value, Integral) and value in (0, 1))


def text(value):
    return isinstance(value, str)


def name(value):
    return value is None or (isinstance(value, str) and 0 < len(value) <= 1000 and "/" not in value)


def pair(value):
    return whole()(value) or (isinstance(value, list | tuple) and len(value) == 2 and all(map(whole(), value)))


def factor(at_least=-1, above=-math.inf):
    """What augmentation takes: a number, or a pair of them."""
    share = real(at_least, 1, above=above)
    return lambda v: share(v) or (isinstance(v, list | tuple) and len(v) == 2 and all(map(share, v)))


def sides(value):
    """What ZeroPadding2D takes."""

    def side(each):
        return whole(0)(each) or (isinstance(each, list | tuple) and len(each) == 2 and all(map(whole(0), each)))

    return whole(0)(value) or (isinstance(value, list | tuple) and len(value) == 2 and all(map(side, value)))


def shape(value):
    sizes = isinstance(value, list | tuple) and len(value) <= 30 and all(map(whole(), value))
    return sizes and math.prod(value) * 4 <= tinyconv.checking.arguments.MEMORY


def never(value):
    return False


def numbers(value):
    """What becomes an array of finite numbers."""
    if isinstance(value, Real) and not isinstance(value, int | Fraction):
        return math.isfinite(value)
    if isinstance(value, bool | int | np.bool_):
        return abs(int(value)) < 2**63
    plain = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)
    if plain or (isinstance(value, list | tuple) and value and all(isinstance(n, int) for n in value)):
        array = np.asarray(value)
        return array.dtype.kind in "biuf" and array.size > 0 and bool(np.isfinite(array).all())
    return False


rate, positive, natural = real(0), real(above=0), whole(0)

# By the argument's name, or by "function, argument" where the name means something else there.
RULES = {
    "activation": one_of(None, *activations.NAMES, *activations.NAMES.values()),
    "alpha": rate,
    "append": flag,
    "autocast": one_of(True, 1),
    "backend": one_of(None, "auto", "cpu", "reference"),
    "backup_dir": None,
    "baseline": None,
    "batch_shape": None,
    "beta_1": real(0, below=1),
    "beta_2": real(0, below=1),
    "boundaries": None,
    "center": flag,
    "centered": flag,
    "clipnorm": optional(positive),
    "clipvalue": optional(positive),
    "config": never,
    "cooldown": natural,
    "custom_objects": None,  # depends on what is deserialised
    "aggregation": one_of(None, "none"),
    **dict.fromkeys(
        [f"{kind}, batch_size" for kind in ("Input", "layers.Input", "layers.InputLayer")], optional(whole())
    ),
    "call_function": None,  # a Sequential calls no layers
    "clone_function": never,
    "input_dim": optional(whole()),
    "json_string": None,  # of one that is no JSON the parser says what is wrong
    "obj": lambda v: isinstance(v, type),
    "free_memory": flag,
    "models.clone_model, model": never,
    "models.clone_model, clone_function": None,  # of no layers, nothing is cloned
    "models.save_model, model": never,
    "saving.save_model, model": never,
    "saving.get_registered_object, name": text,
    **{
        f"{module}.register_keras_serializable, name": lambda v: v is None or (text(v) and v != "")
        for module in ("saving", "utils")
    },
    "utils.get_registered_object, name": text,
    "saving.save_model, overwrite": None,  # the model has no weights yet
    "models.save_model, overwrite": None,
    "models.load_model, backend": None,
    "overwrite": flag,
    "package": None,
    "recursive": flag,
    "cycle": flag,
    "class_id": optional(natural),
    "curve": never,
    "decay_rate": rate,
    "delta": positive,
    "decay_steps": positive,
    "delete_checkpoint": flag,
    "dilation_rate": pair,
    "distribution": never,
    "depth_multiplier": whole(),
    "depthwise_initializer": never,
    "div_factor": positive,
    "end_learning_rate": rate,
    "epsilon": positive,
    "filename": None,
    "filepath": None,
    "fill_mode": never,
    "fill_value": real(),
    "filters": whole(),
    "final_div_factor": positive,
    "from_logits": flag,
    "fuse": flag,
    "global_clipnorm": optional(positive),
    "gain": real(),
    "height_factor": factor(),
    "identifier": never,
    "initial_learning_rate": rate,
    "input_shape": optional(shape),
    "k": whole(),
    "label_smoothing": real(0, 1),
    "loss": never,
    "max_queue_size": whole(),
    "metric": never,
    "num_thresholds": whole(2, 100_000),
    "reduction": one_of(None, "sum"),
    "summation_method": never,
    "thresholds": optional(real(0, 1)),
    "keepdims": flag,
    "kernel_size": pair,
    "l1": rate,
    "l2": rate,
    "layers": None,
    "learning_rate": rate,
    "learning_rate_schedule": never,
    "max_learning_rate": rate,
    "maxval": real(-0.05),
    "mean": real(),
    "minval": real(at_most=0.05),
    "mode": never,
    "momentum": real(0, 1),
    "name": name,
    "negative_slope": rate,
    "nesterov": flag,
    "num_classes": optional(whole(2, 10**8)),
    "optimizer": never,
    "padding": never,
    "pointwise_initializer": never,
    "pool_size": pair,
    "power": rate,
    "rate": real(0, below=1),
    "restore_best_weights": flag,
    "rho": real(0, 1),
    "save_best_only": flag,
    "save_weights_only": flag,
    "scale": positive,
    "seed": optional(whole(0, 2**63 - 1)),
    "shape": None,
    "staircase": flag,
    "stddev": rate,
    "strides": pair,
    "total_steps": whole(1, 2**63),
    "trainable": flag,
    "units": whole(),
    "use_bias": flag,
    "value": numbers,
    "values": None,
    "width_factor": factor(),
    "x_factor": factor(),
    "y_factor": factor(),
    "warmup_share": real(0, 1),
    "warmup_steps": whole(0, 2**63),
    "warmup_target": optional(rate),
    "weight_decay": optional(rate),
    "layers.ELU, alpha": positive,
    "losses.deserialize, name": never,
    "metrics.AUC, thresholds": optional(lambda v: type(v) is list and len(v) in (0, 100_000)),
    "layers.AveragePooling2D, strides": optional(pair),
    "layers.AvgPool2D, strides": optional(pair),
    "layers.MaxPooling2D, strides": optional(pair),
    "layers.MaxPool2D, strides": optional(pair),
    "layers.BatchNormalization, axis": whole(-LARGEST),
    "layers.Concatenate, axis": lambda v: whole(-32, 32)(v) and v != 0,
    "layers.BatchNormalization, scale": flag,
    "layers.BatchNormalization, epsilon": positive,
    "activations.get, identifier": one_of(None, *activations.NAMES, *activations.NAMES.values()),
    "activations.elu, alpha": real(),
    "activations.leaky_relu, negative_slope": real(),
    "activations.softmax, axis": one_of(-1, 0),
    "approximate": flag,
    "max_value": optional(rate),
    "threshold": rate,
    "layers.LayerNormalization, axis": lambda v: (
        whole(-LARGEST)(v) or (isinstance(v, list | tuple) and len(v) > 0 and all(map(whole(-LARGEST), v)))
    ),
    "layers.LayerNormalization, scale": flag,
    "layers.RandomRotation, factor": factor(),
    "layers.RandomZoom, height_factor": factor(above=-1),
    "layers.RandomZoom, width_factor": optional(factor(above=-1)),
    "layers.UpSampling2D, size": pair,
    "layers.ZeroPadding2D, padding": sides,
    "layers.Softmax, axis": whole(-LARGEST),
    "layers.Rescaling, scale": real(),
    "layers.Rescaling, offset": real(),
    "layers.Reshape, target_shape": lambda v: shape(v) or (isinstance(v, list | tuple) and list(v).count(-1) == 1),
    "layers.Input, shape": shape,
    "layers.InputLayer, shape": shape,
    "Input, shape": shape,
    "optimizers.AdamW, weight_decay": rate,
    "optimizers.Adam, epsilon": rate,
    "optimizers.AdamW, epsilon": rate,
    "optimizers.RMSprop, epsilon": rate,
    "layers.WeightSpec, name": lambda v: name(v) and v is not None,
    "layers.WeightSpec, shape": shape,
    "layers.WeightSpec, initializer": never,
    "layers.WeightSpec, regularizer": one_of(None),
    "callbacks.ModelCheckpoint, save_weights_only": None,  # depends on the file's name
    "callbacks.EarlyStopping, mode": None,  # an unknown one is a warning, as in Keras
    "callbacks.ModelCheckpoint, mode": None,
    "callbacks.ReduceLROnPlateau, mode": None,
    "callbacks.MonitorCallback, mode": None,
    "saving.load_model, backend": None,  # there is no file
    "regularizers.get, identifier": one_of(None),
    "use_multiprocessing": lambda v: flag(v) and not v,
    "workers": natural,
    "utils.array_to_img, scale": flag,
    "utils.img_to_array, data_format": one_of(None, "channels_last"),
    "utils.image_dataset_from_directory, seed": None,  # there are no images
    "utils.normalize, axis": whole(-1, 0),
    "utils.save_img, scale": None,  # it would write files
    "utils.set_random_seed, seed": whole(0, 2**32 - 1),
    "Sequential, layers": lambda v: v is None or (isinstance(v, list | tuple | dict | set) and not v),
}
RULES |= {f"{weight}_initializer": never for weight in ("kernel", "bias", "beta", "gamma", "moving_mean")}
RULES |= {"moving_variance_initializer": never}
RULES |= {f"layers.Random{kind}, interpolation": never for kind in ("Rotation", "Shear", "Translation", "Zoom")}
RULES |= dict.fromkeys(
    ("kernel_regularizer", "bias_regularizer", "depthwise_regularizer", "pointwise_regularizer"), one_of(None)
)
NEUTRAL = {
    "layers": layers.arguments.NEUTRAL | layers.base.NEUTRAL,
    "initializers": initializers.NEUTRAL,
    "losses": losses.NEUTRAL,
    "metrics": metrics.NEUTRAL,
    "optimizers": optimizers.NEUTRAL,
}


def rule_of(function, argument):
    family = function.partition(".")[0]
    if f"{function}, {argument}" in RULES:
        return RULES[f"{function}, {argument}"]
    if argument in layers.core.KERAS_INPUT and "Input" in function:
        return neutral(layers.core.KERAS_INPUT[argument])
    if argument in NEUTRAL.get(family, {}):
        return neutral(NEUTRAL[family][argument])
    return RULES.get(argument)


def neutral(options):
    """The value is one of those at which an argument that tinyconv has not changes nothing."""

    def right(value):
        for option in options:
            if isinstance(option, bool):
                found = flag(value) and value == option
            elif isinstance(option, Real):
                found = real()(value) and value == option
            else:
                found = type(value) is type(option) and value == option
            if found:
                return True
        return False

    return right


# What messages call an argument that is data
WORDS = {
    "x": ("input",),
    "y": ("targets",),
    "validation_data": ("pair (x, y)", "input of model", "targets"),
    "weighted_metrics": ("metric",),
    "weights": ("Weight",),
    "name": ("layer",),
    "input": ("input", "Layer"),
    "input_shape": ("shape",),
}


def complaint(error, argument):
    """What is wrong with an error, if anything."""
    if type(error) not in (ValueError, TypeError):
        return f"{type(error).__name__}: {error}"
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    line = linecache.getline(code.co_filename, last.tb_lineno).strip()
    if not Path(code.co_filename).is_relative_to(Path(tinyconv.__file__).parent) or not line.startswith("raise "):
        return f"not raised by tinyconv, but {code.co_filename}:{last.tb_lineno}: {error}"
    message = str(error)
    wanted = argument.removesuffix("s").replace("identifier", "")
    wanted = next((part for part in ("activation", "initializer", "regularizer") if part in wanted), wanted)
    if not any(word in message for word in (wanted, *WORDS.get(argument, ()))) or "xpected" not in message:
        return f"says too little: {message}"
    return f"is too long: {message}" if len(message) > 900 else None


def check(function, argument, right, call):
    """Call with every value, and list what went wrong."""
    wrong = []
    for label, value in VALUES.items():
        value = iter([1]) if value is iter else value  # a fresh one
        try:
            call(value)
        except Exception as error:
            problem = complaint(error, argument)
            if problem or right(value):
                wrong.append(f"{label}: {problem or f'refused, though it is right: {error}'}")
        else:
            if not right(value):
                wrong.append(f"{label}: accepted silently")
    assert not wrong, f"{function}, {argument}:\n" + "\n".join(wrong)


CONSTRUCTED = [
    (function, parameter.name)
    for function, kind in everything().items()
    for parameter in parameters(kind)
    if rule_of(function, parameter.name) is not None
]


@pytest.mark.parametrize(("function", "argument"), CONSTRUCTED, ids=lambda value: value)
def test_constructors_and_functions(function, argument):
    kind, given = everything()[function], {}
    given = required(kind) | ({"shape": (3,)} if "Input" in function else {})
    check(function, argument, rule_of(function, argument), lambda value: kind(**{**given, argument: value}))


# The methods of a model, each on a fresh one


SAMPLES, IMAGE, CLASSES = 5, (4, 4, 1), 3
X, Y = np.ones((SAMPLES, *IMAGE), np.float32), np.eye(CLASSES, dtype=np.float32)[[0, 1, 2, 0, 1]]


def model():
    tinyconv.utils.set_random_seed(1)
    made = tinyconv.Sequential([tinyconv.Input(IMAGE), layers.Flatten(), layers.Dense(CLASSES, activation="softmax")])
    made.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend="reference")
    return made


def method(what, **given):
    """A call of a method of a fresh model, with one more argument."""

    def call(argument, value):
        getattr(model(), what)(**{**given, argument: value})

    return call


nothing = one_of(None)


def factors(value):
    """A weight for the only output, a list with one, or a dict without any."""
    if isinstance(value, dict):
        return not value
    listed = value if isinstance(value, list | tuple) else [value]
    return len(listed) == 1 and optional(real())(listed[0])


of_nothing = dict.fromkeys(("class_weight", "sample_weight"), nothing)
verbose = one_of("auto", 0, 1, 2)
METHODS = {
    "fit": (
        method("fit", x=X, y=Y, verbose=0),
        {
            "x": never,
            "y": never,
            "batch_size": optional(whole()),
            "epochs": whole(1, 3),
            "verbose": None,
            "callbacks": lambda v: v is None or (isinstance(v, list | dict) and not v),
            "validation_split": real(0, 0.79),
            "validation_data": nothing,
            "shuffle": flag,
            "initial_epoch": natural,
            "validation_batch_size": optional(whole()),
            "validation_freq": whole(),
            "steps_per_epoch": optional(whole()),
            "validation_steps": optional(whole()),
            **of_nothing,
        },
    ),
    "evaluate": (
        method("evaluate", x=X, y=Y, verbose=0),
        {
            "x": never,
            "y": never,
            "batch_size": optional(whole()),
            "sample_weight": nothing,
            "steps": optional(whole()),
            "callbacks": lambda v: v is None or (isinstance(v, list | dict) and not v),
            "return_dict": flag,
        },
    ),
    "predict": (
        method("predict", x=X),
        {"x": never, "batch_size": optional(whole()), "steps": optional(whole()), "on_device": None},
    ),
    "train_on_batch": (
        method("train_on_batch", x=X, y=Y),
        {"x": never, "y": never, "sample_weight": nothing, "class_weight": nothing, "return_dict": flag},
    ),
    "test_on_batch": (
        method("test_on_batch", x=X, y=Y),
        {"x": never, "y": never, "sample_weight": nothing, "return_dict": flag},
    ),
    "predict_on_batch": (method("predict_on_batch"), {"x": never}),
    "__call__": (method("__call__", x=X), {"x": never, "training": optional(flag)}),
    "compile": (
        method("compile", loss="mse", backend="reference"),
        {
            "optimizer": never,
            "loss": nothing,
            "metrics": lambda v: v is None or (isinstance(v, list) and not v),
            "loss_weights": factors,
            "weighted_metrics": lambda v: v is None or (isinstance(v, list) and not v),
            "run_eagerly": lambda v: flag(v) and not v,
            "steps_per_execution": lambda v: whole(1, 1)(v),
            "jit_compile": lambda v: flag(v),
            "auto_scale_loss": flag,
            "backend": nothing,
            "fuse": flag,
        },
    ),
    "add": (method("add", layer=layers.Flatten()), {"layer": never}),
    "build": (method("build"), {"input_shape": nothing}),
    "get_layer": (method("get_layer"), {"name": never, "index": lambda v: whole(-1, 1)(v)}),
    "set_weights": (method("set_weights"), {"weights": never}),
}


@pytest.mark.parametrize(
    ("what", "argument"), [(what, argument) for what, (_, rules) in METHODS.items() for argument in rules]
)
def test_methods_of_a_model(what, argument):
    call, rules = METHODS[what]
    if rules[argument] is not None:
        check(what, argument, rules[argument], lambda value: call(argument, value))


@pytest.mark.parametrize("layer", [layers.Dense(2), layers.Conv2D(2, 2), layers.BatchNormalization()], ids=repr)
def test_methods_of_a_layer(layer):
    def fresh():
        return type(layer).from_config(layer.get_config())

    any_rank = [VALUES["wrong rank"]] if not isinstance(layer, layers.Conv2D) else []
    check(repr(layer), "input", lambda v: any(v is right for right in any_rank), lambda value: fresh()(value))

    def batch(value):
        flat = isinstance(value, list | tuple) and len(value) == 2 and not isinstance(layer, layers.Conv2D)
        return flat and shape(value[1:])

    check(repr(layer), "shape", batch, lambda value: fresh().build(value))
    check(
        repr(layer),
        "weights",
        lambda v: isinstance(v, list | tuple | np.ndarray) and (v.shape[:1] == (0,) if hasattr(v, "shape") else not v),
        lambda v: fresh().set_weights(v),
    )


class Given(initializers.Initializer):
    """An initialiser of the user's own, that gives anything."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def __call__(self, shape, rng):
        return self.value


def test_what_an_initialiser_of_the_users_own_gives():
    def build(value):
        layers.Dense(2, kernel_initializer=Given(value)).build((None, 3))

    check("Dense", "Given", never, build)


class Scheduled(optimizers.schedules.LearningRateSchedule):
    def __init__(self, value):
        self.value = value

    def __call__(self, step):
        return self.value


def test_what_a_schedule_of_the_users_own_gives():
    def train(value):
        made = model()
        made.compile(optimizers.SGD(Scheduled(value)), "mse", backend="reference")
        made.train_on_batch(X, Y)

    check("SGD", "learning", real(0, 3.4e38), train)


def test_the_zoo_is_large_enough():
    calls = (len(CONSTRUCTED) + sum(len(rules) for _, rules in METHODS.values())) * len(VALUES)
    assert calls > 600
    covered = {function for function, _ in CONSTRUCTED}
    without = {name for name, kind in everything().items() if name not in covered and parameters(kind)}
    assert without <= {
        "callbacks.MonitorCallback",
        "callbacks.TerminateOnNaN",
        *(f"activations.{name}" for name in activations.NAMES),  # of numbers alone
        "saving.load_model",
        *(
            f"{module}.{name}"
            for module in ("saving", "utils")
            for name in ("CustomObjectScope", "custom_object_scope")
        ),
        "models.load_model",
        "models.model_from_json",
        "callbacks.CallbackList",
        "callbacks.LambdaCallback",
        "callbacks.LearningRateScheduler",
        *(f"layers.{name}" for name in ("add", "average", "concatenate", "maximum", "minimum", "multiply", "subtract")),
        "losses.mean_absolute_error",
        "losses.mean_squared_error",
        *(f"utils.{name}" for name in ("image_dataset_from_directory", "load_img", "save_img")),  # of files
    }
