// Which numbers meet in a sliding window, as in tinyconv/trace/windows.py: places (i, j) on a small grid, pixels (u, v) on a
// large one, u = i s + k d − p for tap k. A convolution's output is on the small grid, a transposed one's on the large.
export const size = shape => shape.reduce((a, b) => a * b, 1);
export const isPool = node => node.op === "MaxPool2D" || node.op === "AveragePool2D";
const grid = shape => shape.length === 3 ? shape.slice(0, 2) : [1, 1];       // global pooling leaves the axes out

// C channels of the large grid meet `last` of the small one; or, depthwise, channel c meets c last to c last + last − 1.
// A dense layer is a filter of one tap on a grid of its rows.
export function geometry(node) {
  if (node.geometry) return node.geometry;
  if (node.op === "Dense") {
    const rows = [size(node.shape.slice(0, -1)), 1];
    return node.geometry = { small: rows, large: rows, size: [1, 1], strides: [1, 1], padding: [0, 0], dilation: [1, 1], C: node.x.at(-1), last: node.shape.at(-1), depthwise: false };
  }
  const transposed = node.op === "Conv2DTranspose", [small, large] = transposed ? [node.x, node.shape] : [node.shape, node.x];
  const C = large.at(-1), depthwise = node.op === "DepthwiseConv2D" || isPool(node);
  return node.geometry = { small: grid(small), large: grid(large), size: node.size, strides: node.strides, padding: node.padding, dilation: node.dilation ?? [1, 1], C, last: depthwise ? small.at(-1) / C : small.at(-1), depthwise, transposed };
}
// Every place under every window: its number on the small grid, on the large one, and that of the tap.
export function eachTap(g, meet) {
  const [SH, SW] = g.small, [LH, LW] = g.large, [KH, KW] = g.size;
  for (let i = 0; i < SH; i++) for (let j = 0; j < SW; j++) for (let k = 0; k < KH; k++) {
    const u = i * g.strides[0] + k * g.dilation[0] - g.padding[0];
    if (u < 0 || u >= LH) continue;
    for (let l = 0; l < KW; l++) {
      const v = j * g.strides[1] + l * g.dilation[1] - g.padding[1];
      if (v >= 0 && v < LW) meet(i * SW + j, u * LW + v, k * KW + l);
    }
  }
}
const smallChannels = g => g.depthwise ? g.C * g.last : g.last;
// The three sums of products: small += large · w, large += small · w, w += small · large.
export function toSmall(g, small, large, w) {
  const { C, last, depthwise } = g, S = smallChannels(g);
  eachTap(g, (o, x, t) => {
    for (let c = 0; c < C; c++) {
      const value = large[x * C + c], at = (t * C + c) * last, to = o * S + (depthwise ? c * last : 0);
      if (value !== 0) for (let f = 0; f < last; f++) small[to + f] += value * w[at + f];
    }
  });
}
export function toLarge(g, large, small, w) {
  const { C, last, depthwise } = g, S = smallChannels(g);
  eachTap(g, (o, x, t) => {
    for (let c = 0; c < C; c++) {
      const at = (t * C + c) * last, from = o * S + (depthwise ? c * last : 0);
      let sum = 0;
      for (let f = 0; f < last; f++) sum += small[from + f] * w[at + f];
      large[x * C + c] += sum;
    }
  });
}
export function toWeight(g, w, small, large) {
  const { C, last, depthwise } = g, S = smallChannels(g);
  eachTap(g, (o, x, t) => {
    for (let c = 0; c < C; c++) {
      const value = large[x * C + c], at = (t * C + c) * last, from = o * S + (depthwise ? c * last : 0);
      if (value !== 0) for (let f = 0; f < last; f++) w[at + f] += value * small[from + f];
    }
  });
}
// Of one window the pixels under its taps; of one pixel the windows over it: [tap row, tap column, a, b, why they do not meet].
export function under(g, i, j) {
  return taps(g, (k, l) => {
    const u = i * g.strides[0] + k * g.dilation[0] - g.padding[0], v = j * g.strides[1] + l * g.dilation[1] - g.padding[1];
    return [u, v, u >= 0 && u < g.large[0] && v >= 0 && v < g.large[1] ? "" : "outside the image"];
  });
}
export function over(g, u, v) {
  return taps(g, (k, l) => {
    const steps = [u + g.padding[0] - k * g.dilation[0], v + g.padding[1] - l * g.dilation[1]], [i, j] = steps.map((at, axis) => at % g.strides[axis] ? -1 : at / g.strides[axis]);
    if (steps.some((at, axis) => at % g.strides[axis])) return [i, j, "between two windows"];
    return [i, j, i >= 0 && i < g.small[0] && j >= 0 && j < g.small[1] ? "" : "no window stands there"];
  });
}
function taps(g, of) {
  const found = [];
  for (let k = 0; k < g.size[0]; k++) for (let l = 0; l < g.size[1]; l++) found.push([k, l, ...of(k, l)]);
  return found;
}
