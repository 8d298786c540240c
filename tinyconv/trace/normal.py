"""Explanations of batch and layer normalisation."""

import numpy as np

from tinyconv.kernels import reference
from tinyconv.plan import ops
from tinyconv.trace.explainer import Explainer, counted
from tinyconv.trace.explanation import Column, Explanation, Fact, Place, Rows, reference_to, single
from tinyconv.trace.record import Array, Node

FORMULA = r"dx = \frac{1}{\sigma} \cdot (g - mean(g) - \hat{x} \cdot mean(g \hat{x})), \quad g = \gamma \cdot dout"
FIXED_FORMULA = r"dx = dout \cdot \frac{\gamma}{\sigma}"  # where mean and deviation are constants


class Normalization(Explainer):
    """What both share: x̂ = (x - mean) / deviation, and out = gamma x̂ + beta.

    ``group``: the numbers that are normalised together, as a mask or slices of x. A gradient has three terms: by way of
    x̂ itself, of the mean, and of the deviation.
    """

    over: str  # what the mean is taken over

    def group(self, node: Node, place: Place) -> tuple:
        """The index of the numbers that this one is normalised with."""
        raise NotImplementedError

    def statistics(self, place: Place) -> tuple[float, float]:
        """Their mean, and 1 over their deviation."""
        raise NotImplementedError

    def parameter(self, place: Place) -> Place:
        """Where gamma and beta stand that belong to a place."""
        raise NotImplementedError

    def along(self, node: Node, parameter: Place) -> tuple[Array, Array]:
        """All places that a number of gamma and beta belongs to (rows, axes), and x̂ there."""
        raise NotImplementedError

    @property
    def fixed(self) -> bool:
        """Whether mean and deviation are constants."""
        return False

    def gamma(self, place: Place) -> list[tuple[str, Place | None, float]]:
        """gamma as a factor, where the layer has one."""
        at = self.parameter(place)
        return [("gamma", at, float(self.weight("gamma")[at]))] if self.op.scale else []

    def _facts(self, place: Place) -> list[Fact]:
        mean, inv_std = self.statistics(place)
        return [
            Fact("mean", mean, f"of {self.over}"),
            Fact("deviation", 1 / inv_std, f"the root of the variance + {self.op.epsilon:g}"),
        ]

    def output(self, place: Place) -> Explanation:
        mean, inv_std = self.statistics(place)
        normal = (float(self.node.inputs[0][place]) - mean) * inv_std
        rows = [single(*self.gamma(place), ("x̂", place, normal))]
        if self.op.center:
            at = self.parameter(place)
            rows.append(single(("beta", at, float(self.weight("beta")[at]))))
        x = float(self.node.inputs[0][place])
        said = [
            f"{x:.4g} is {abs(normal):.4g} deviations {'above' if normal >= 0 else 'below'} the mean of {self.over}.",
            "gamma and beta, which are learned, set the deviation and the mean of what comes out.",
        ]
        formula = r"out = \gamma \cdot \hat{x} + \beta, \quad \hat{x} = \frac{x - \mu}{\sigma}"
        code = reference_to(*self.forward)
        value, facts = self.node.out[place], self._facts(place)
        return self.explain(self.out_name(), place, value, rows, formula, said, code, facts=facts)

    def dinput(self, k: int, place: Place) -> Explanation:
        mean, inv_std = self.statistics(place)
        scale = ("1 / deviation", None, inv_std)
        dout = self.dout_at(np.array([place]))
        rows = [
            single(
                *self.gamma(place), scale, (f"d{self.out_name()}", place, dout.values[0]), why=self.why_dout(dout)(0)
            )
        ]
        if not self.fixed:
            index = self.group(self.node, place)
            g = self.dout[index].astype(np.float64) * self._gammas(index)
            x = self.node.inputs[0][index].astype(np.float64)
            normals = (x - mean) * inv_std
            normal = (float(self.node.inputs[0][place]) - mean) * inv_std
            rows.append(single(scale, ("− the mean of gamma × dout", None, -g.mean())))
            rows.append(
                single(scale, ("−x̂", place, -normal), ("the mean of gamma × dout × x̂", None, (g * normals).mean()))
            )
        said = ["Mean and deviation are constants here, so the gradient passes times a factor."] if self.fixed else [
            "The number moves its own x̂, the mean, and the deviation: three ways to the loss.",
            f"The two means are over the same numbers as the statistics: {self.over}.",
        ]  # fmt: skip
        formula = FIXED_FORMULA if self.fixed else FORMULA
        gradient = self.node.dinputs[0]
        assert gradient is not None
        code, facts = reference_to(*self.backward), self._facts(place)
        what, value = f"d{self.x_name()}", gradient[place]
        return self.explain(what, place, value, rows, formula, said, code, facts=facts)

    def _gammas(self, index: tuple) -> float | Array:
        raise NotImplementedError

    def dweight(self, name: str, place: Place) -> Explanation:
        rows: list[Rows] = []
        for node in self.siblings():
            each = type(self)(self.scope, node)
            places, normals = each.along(node, place)
            dout = each.dout_at(places)
            columns = (dout, Column("x̂", normals, places)) if name == "gamma" else (dout,)
            rows.append(Rows(columns, each.why_dout(dout)))
        count = counted(sum(len(each.values) for each in rows), "number")
        said = [
            f"gamma multiplies {count}, and collects the gradient of each, times its x̂."
            if name == "gamma"
            else f"beta is added to {count}, and collects the gradient of each."
        ]
        gradient = self.scope.record.weights[f"{self.op.name}/{name}"].gradient
        assert gradient is not None
        formula = r"d\gamma = \sum_m dout_m \cdot \hat{x}_m" if name == "gamma" else r"d\beta = \sum_m dout_m"
        code = reference_to(self.backward[0], f"d{name}[...] =")
        return self.explain(f"d{name}", place, gradient[place], rows, formula, said, code)

    def lost(self, k: int) -> Array:
        return self.scope.lost(self.node.number) if self.fixed else super().lost(k)


class BatchNorm(Normalization):
    @property
    def fixed(self) -> bool:
        return self.op.frozen or not self.scope.record.training

    @property
    def over(self) -> str:  # type: ignore[override]
        return "the moving statistics" if self.fixed else "the channel in the whole batch"

    @property
    def forward(self):  # type: ignore[no-untyped-def, override]
        return (reference.batch_norm_inference if self.fixed else reference.batch_norm_forward), "out[...] ="

    @property
    def backward(self):  # type: ignore[no-untyped-def, override]
        kernel = reference.batch_norm_inference_backward if self.fixed else reference.batch_norm_backward
        return kernel, "dx[...] ="

    def group(self, node: Node, place: Place) -> tuple:
        return (..., place[-1])

    def statistics(self, place: Place) -> tuple[float, float]:
        c = place[-1]
        if self.fixed:
            mean, variance = (self.weight(f"moving_{name}")[c] for name in ("mean", "variance"))
            return float(mean), 1 / float(np.sqrt(np.float64(variance) + self.op.epsilon))
        mean, inv_std = self.node.array("mean"), self.node.array("inv_std")
        assert mean is not None
        assert inv_std is not None
        return float(mean[c]), float(inv_std[c])

    def parameter(self, place: Place) -> Place:
        return place[-1:]

    def _gammas(self, index: tuple) -> float | Array:
        return float(self.weight("gamma")[index[-1]]) if self.op.scale else 1.0

    def along(self, node: Node, parameter: Place) -> tuple[Array, Array]:
        leading = np.indices(node.out.shape[:-1]).reshape(node.out.ndim - 1, -1)
        places = np.concatenate([leading, np.full((1, leading.shape[1]), parameter[0])]).T
        mean, inv_std = self.statistics(parameter)
        return places, (node.inputs[0][tuple(places.T)].astype(np.float64) - mean) * inv_std

    def moved(self, name: str, place: Place) -> Explanation:
        """What a step makes of a moving statistic: every use of the layer moves it on."""
        weight = self.scope.record.weights[f"{self.op.name}/{name}"]
        keep, uses = self.op.momentum, [] if self.fixed else self.siblings()
        rows = [single(("momentum" if uses else "1", None, keep ** len(uses)), (name, place, weight.value[place]))]
        for later, node in reversed([*enumerate(reversed(uses))]):
            mean, inv_std = BatchNorm(self.scope, node).statistics(place)
            new = mean if name == "moving_mean" else 1 / inv_std**2 - self.op.epsilon
            share = ("1 − momentum", None, (1 - keep) * keep**later)
            rows.append(single(share, (f"the batch's {name.removeprefix('moving_')}", None, new)))
        said = ["A running mean over the batches, for inference." if uses else "It stays: nothing is trained here."]
        if len(uses) > 1:
            said.append(f"The layer is used {len(uses)} times, and each use moves it on: powers of the momentum.")
        formula = r"m \leftarrow momentum \cdot m + (1 - momentum) \cdot \text{the batch's}"
        code = reference_to(reference.batch_norm_forward, f"{name}[...] =")
        return self.explain(f"new_{name}", place, weight.new[place], rows, formula, said, code)


class LayerNorm(Normalization):
    forward = (reference.layer_norm_forward, "out[...] =")
    backward = (reference.layer_norm_backward, "dx[...] =")
    over = "the sample's last axes"

    def group(self, node: Node, place: Place) -> tuple:
        return (*place[: len(place) - self.op.axes], ...)

    def statistics(self, place: Place) -> tuple[float, float]:
        leading = self.node.out.shape[: self.node.out.ndim - self.op.axes]
        row = int(np.ravel_multi_index(place[: len(leading)], leading))
        mean, inv_std = self.node.array("mean"), self.node.array("inv_std")
        assert mean is not None
        assert inv_std is not None
        return float(mean[row]), float(inv_std[row])

    def parameter(self, place: Place) -> Place:
        return place[len(place) - self.op.axes :]

    def _gammas(self, index: tuple) -> float | Array:
        return self.weight("gamma").astype(np.float64) if self.op.scale else 1.0

    def along(self, node: Node, parameter: Place) -> tuple[Array, Array]:
        shape = node.out.shape[: node.out.ndim - self.op.axes]
        leading = np.indices(shape).reshape(len(shape), -1)
        fixed = np.broadcast_to(np.array(parameter)[:, None], (len(parameter), leading.shape[1]))
        places = np.concatenate([leading, fixed]).T
        mean, inv_std = node.array("mean"), node.array("inv_std")
        assert mean is not None
        assert inv_std is not None
        return places, (node.inputs[0][tuple(places.T)].astype(np.float64) - mean) * inv_std


NORMAL: dict[type[ops.Op], type[Explainer]] = {ops.BatchNorm: BatchNorm, ops.LayerNorm: LayerNorm}
