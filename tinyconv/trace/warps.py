"""Explanations of augmentation: a pixel of the output is seen at a place of the input, between four of its pixels."""

from functools import cached_property

import numpy as np

from tinyconv.kernels import reference
from tinyconv.kernels.reference.warp import corners
from tinyconv.trace.explainer import UNSEEN, counted
from tinyconv.trace.explanation import Fact, Place, Rows, single
from tinyconv.trace.record import Array
from tinyconv.trace.routes import Route, Ways


class Warp(Route):
    factor = "weight"
    forward = (reference.warp_forward, "out += ")
    backward = (reference.warp_backward, "np.add.at")
    formula = (
        r"out_{n,i,j,c} = \sum_{four pixels} weight \cdot x + (1 - \sum weight) \cdot fill\_value",
        r"dx_{n,u,v,c} = \sum_{readers} weight \cdot dout_{n,i,j,c}",
    )

    @cached_property
    def warps(self) -> Array | None:
        """The maps that were drawn; None at inference."""
        return self.node.array("warps")

    @cached_property
    def neighbours(self) -> list[tuple[Array, Array, Array]]:
        """Row, column and weight (N, H, W) of each of the four pixels around every place."""
        assert self.warps is not None
        fill_mode, _, interpolation = self.op.seen
        found = corners(self.node.out.shape, self.warps, fill_mode, interpolation)
        return [(i, j, weight[..., 0]) for (_, i, j), weight in found]

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        if self.warps is None:
            return [(0, Ways.one(place))]
        n, y, x, c = place
        full = [np.broadcast_arrays(*each) for each in self.neighbours]
        near = [(n, int(i[n, y, x]), int(j[n, y, x]), c) for i, j, _ in full]
        return [(0, Ways(np.array(near), np.array([float(weight[n, y, x]) for _, _, weight in full])))]

    def targets(self, k: int, place: Place) -> Ways:
        if self.warps is None:
            return Ways.one(place)
        n, u, v, c = place
        found, weights = [np.zeros((0, 4), np.int64)], [np.zeros(0)]
        for each in self.neighbours:
            i, j, weight = np.broadcast_arrays(*each)
            y, x = np.nonzero((i[n] == u) & (j[n] == v) & (weight[n] != 0))
            found.append(np.stack([np.full_like(y, n), y, x, np.full_like(y, c)], axis=1))
            weights.append(weight[n, y, x].astype(np.float64))
        return Ways(np.concatenate(found), np.concatenate(weights))

    def lost(self, k: int) -> Array:
        if self.warps is None:
            return self.scope.lost(self.node.number)
        seen = np.zeros(self.node.out.shape[:3], bool)
        sample = np.arange(len(seen))[:, None, None]
        for i, j, weight in self.neighbours:
            n, i, j, weight = np.broadcast_arrays(sample, i, j, weight)
            seen[n[weight != 0], i[weight != 0], j[weight != 0]] = True
        return np.broadcast_to(np.where(seen, 0, UNSEEN)[..., None], self.node.out.shape)

    def extra(self, place: Place) -> list[Rows]:
        left = 1 - self.sources(place)[0][1].factors.sum()
        if abs(left) < 1e-6:
            return []
        return [single(("fill_value", None, self.op.seen.fill_value), ("what the weights leave", None, left))]

    def facts(self, place: Place) -> list[Fact]:
        if self.warps is None:
            return []
        row, column = self._seen_at(place)
        return [Fact("row", row, "of the place looked at"), Fact("column", column, "of the place looked at")]

    def _seen_at(self, place: Place) -> tuple[float, float]:
        n, y, x, _ = place
        a, b = self.warps[n].reshape(2, 3).astype(np.float64)  # type: ignore[index]
        return float(b @ (x, y, 1)), float(a @ (x, y, 1))

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        if self.warps is None and self.scope.record.training:
            return ["This map is one with that of the next layer, which looks once for both."]
        if self.warps is None:
            return ["At inference images stay as they are."]
        if backward:
            return [f"{counted(len(ways.factors), 'output')} saw this pixel, with these weights."]
        row, column = self._seen_at(place)
        return [
            f"The map drawn for sample {place[0]} in this step looks at row {row:.3g}, column {column:.3g}.",
            "What is there comes from the four pixels around it, the nearer the more.",
        ]
