"""Explanations of pooling: windows over each channel, of which the largest number or the mean is handed on."""

from collections.abc import Iterator

import numpy as np

from tinyconv.kernels import reference
from tinyconv.plan import ops
from tinyconv.trace.explainer import LOST, NO_WINDOW, Explainer, counted
from tinyconv.trace.explanation import Place
from tinyconv.trace.record import Array
from tinyconv.trace.routes import Route, Ways
from tinyconv.trace.windows import MEETS, Windows, places


class _Pool(Route):
    """What the poolings share: windows over each channel."""

    def windows(self) -> Windows:
        op = self.op
        out = op.out_shape[:2] if len(op.out_shape) == 3 else (1, 1)
        return Windows(out, op.x_shape[:2], op.pool_size, op.strides, op.padding)

    @property
    def _out(self) -> Array:
        """The output with spatial axes, which global pooling leaves out."""
        return self.node.out.reshape(self.node.batch_size, *self.windows().small, -1)

    def _long(self, place: Place) -> Place:
        return place if len(place) == 4 else (place[0], 0, 0, place[-1])

    def _short(self, found: Array) -> Array:
        return found if len(self.op.out_shape) == 3 else found[:, [0, 3]]

    def members(self, n: int, i: int, j: int, c: int) -> Array:
        """The pixels of a window that lie in the image, row by row."""
        _, _, u, v, status = self.windows().under(i, j)
        inside = status == MEETS
        return places(n, u[inside], v[inside], c)

    def covering(self, place: Place) -> Array:
        """The windows that a pixel lies in, as places of four axes."""
        n, u, v, c = place
        _, _, i, j, status = self.windows().over(u, v)
        there = status == MEETS
        return places(n, i[there], j[there], c)


class MaxPool2D(_Pool):
    factor = "won"
    forward = (reference.max_pool2d_forward, "best[here] = ")
    backward = (reference.max_pool2d_backward, "dx[there] +=")
    formula = (
        r"out_{n,i,j,c} = \max_{k,l} x_{n,i s_0 + k - p_0,j s_1 + l - p_1,c}",
        r"dx_{n,u,v,c} = \sum_{i,j} dout_{n,i,j,c} \cdot \text{(1 if it won there, else 0)}",
    )

    def _taps(self) -> Iterator[tuple[tuple, tuple, Array]]:
        """For each tap of the windows: the index of the windows, that of the pixels under it, and which won."""
        windows, x, best = self.windows(), self.node.inputs[0], self._out
        taken = np.zeros(best.shape, bool)
        for k, l in np.ndindex(*windows.size):
            i, j, u, v, status = windows.along(k, l)
            inside = status == MEETS
            here = (slice(None), i[inside], j[inside])
            there = (slice(None), u[inside], v[inside])
            won = (x[there] == best[here]) & ~taken[here]
            taken[here] |= won
            yield here, there, won

    def zeros(self) -> Array:
        found, x = np.zeros(self._out.shape, np.int8), self.scope.zeros(self.node.reads[0])
        for here, there, won in self._taps():
            found[here] = np.where(won, x[there], found[here])
        return found.reshape(self.node.out.shape)

    def lost(self, k: int) -> Array:
        found = np.full(self.node.inputs[0].shape, NO_WINDOW, np.int8)
        out = self.scope.lost(self.node.number).reshape(self._out.shape)
        for here, there, won in self._taps():
            before = found[there]
            loser = np.where(before == NO_WINDOW, LOST, before)
            found[there] = np.where(before == 0, 0, np.where(won, out[here], loser))
        return found

    def winner(self, n: int, i: int, j: int, c: int) -> Place:
        """The pixel that won a window: the first of equals."""
        pixels = self.members(n, i, j, c)
        values = self.node.inputs[0][tuple(pixels.T)]
        return tuple(pixels[int(np.argmax(values))].tolist())

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        window = self._long(place)
        pixels, winner = self.members(*window), self.winner(*window)
        won = (pixels == winner).all(axis=1)
        lost = f"lost to row {winner[1]}, column {winner[2]}"
        return [(0, Ways(pixels, won.astype(float), tuple("" if each else lost for each in won)))]

    def targets(self, k: int, place: Place) -> Ways:
        found = self.covering(place)
        winners = [self.winner(*window) for window in found.tolist()]
        won = np.array([winner == place for winner in winners], bool)
        lost = [f"lost to row {winner[1]}, column {winner[2]}" for winner in winners]
        why = tuple("" if each else reason for each, reason in zip(won, lost, strict=True))
        return Ways(self._short(found), won.astype(float), why)

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        if not backward:
            _, u, v, c = ways.real[0]
            return [
                f"The largest of {counted(len(ways.factors), 'number')} in the window, of channel {c} alone.",
                f"Row {u}, column {v} won; the others do not count.",
            ]
        _, u, v, _ = place
        x = f"Row {u}, column {v} lies in {counted(len(ways.factors), 'window')}"
        if ways.real:
            return [
                f"{x} and won {len(ways.real)} of them.",
                "The winner gets the window's gradient, the losers nothing.",
            ]
        return [f"{x} and won none of them: {'; '.join(dict.fromkeys(ways.why))}." if len(ways.factors) else f"{x}."]


class AveragePool2D(_Pool):
    factor = "1 / m"
    forward = (reference.average_pool2d_forward, "out /= ")
    backward = (reference.average_pool2d_backward, "dx[there] +=")
    formula = (
        r"out_{n,i,j,c} = \frac{1}{m} \sum_{k,l} x_{n,i s_0 + k - p_0,j s_1 + l - p_1,c}",
        r"dx_{n,u,v,c} = \sum_{i,j} \frac{1}{m_{i,j}} \cdot dout_{n,i,j,c}",
    )

    def lost(self, k: int) -> Array:
        found, windows = np.full(self.node.inputs[0].shape, NO_WINDOW, np.int8), self.windows()
        for tap in np.ndindex(*windows.size):
            _, _, u, v, status = windows.along(*tap)
            found[:, u[status == MEETS], v[status == MEETS]] = 0
        return found

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        pixels = self.members(*self._long(place))
        return [(0, Ways(pixels, np.full(len(pixels), 1 / len(pixels))))]

    def targets(self, k: int, place: Place) -> Ways:
        found = self.covering(place)
        shares = [1 / len(self.members(*window)) for window in found.tolist()]
        return Ways(self._short(found), np.array(shares))

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        if not backward:
            return [f"The mean of the {counted(len(ways.factors), 'pixel')} of the window that lie in the image."]
        return [
            f"Row {place[1]}, column {place[2]} lies in {counted(len(ways.factors), 'window')}.",
            "Each hands every one of its m pixels 1/m of its gradient.",
        ]


POOLS: dict[type[ops.Op], type[Explainer]] = {ops.MaxPool2D: MaxPool2D, ops.AveragePool2D: AveragePool2D}
