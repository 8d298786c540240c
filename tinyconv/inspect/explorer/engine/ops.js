// What each op computes from one sample, forward and backward: the formulas of tinyconv/kernels/reference.
//
// forward(node, xs, out, step): out is zero. backward(node, dxs, xs, out, dout, step): adds to dxs, and to step.dweight(...).
import { size, geometry, eachTap, toSmall, toLarge, toWeight } from "./windows.js";
import { CURVES } from "./curves.js";

const biased = (node, out, step) => { if (node.bias) { const b = step.weight(node, "bias"), F = b.length; for (let k = 0; k < out.length; k++) out[k] = b[k % F]; } };
const linear = {
  forward(node, [x], out, step) {
    const g = geometry(node);
    biased(node, out, step);
    (g.transposed ? toLarge : toSmall)(g, out, x, step.weight(node, "kernel"));
  },
  backward(node, [dx], [x], out, dout, step) {
    const g = geometry(node), w = step.weight(node, "kernel"), dw = step.dweight(node, "kernel"), db = node.bias ? step.dweight(node, "bias") : null;
    (g.transposed ? toSmall : toLarge)(g, dx, dout, w);
    if (dw) g.transposed ? toWeight(g, dw, x, dout) : toWeight(g, dw, dout, x);
    if (db) for (let k = 0; k < dout.length; k++) db[k % db.length] += dout[k];
  },
};
// Which pixel won each window, the first of equals, and of how many it is the mean.
export function winners(node, x) {
  const g = geometry(node), { C } = g, best = new Int32Array(size(g.small) * C).fill(-1);
  eachTap(g, (o, p) => { for (let c = 0; c < C; c++) { const now = best[o * C + c]; if (now < 0 || x[p * C + c] > x[now]) best[o * C + c] = p * C + c; } });
  return best;
}
export function members(node) {
  const g = geometry(node), count = new Int32Array(size(g.small));
  eachTap(g, o => { count[o]++; });
  return count;
}
// Of a merge the number of an input that belongs to a number of the output: axes of size 1 count for all.
export function inward(shape, flat, to) {
  let at = 0, step = 1;
  for (let axis = to.length - 1, own = shape.length - 1; axis >= 0; axis--, own--) {
    const i = flat % to[axis];
    flat = Math.floor(flat / to[axis]);
    if (own >= 0) { if (shape[own] > 1) at += i * step; step *= shape[own]; }
  }
  return at;
}
export function chosen(node, xs, k) {
  const values = xs.map((x, n) => x[inward(node.shapes[n], k, node.shape)]);
  return values.indexOf((node.kind === "minimum" ? Math.min : Math.max)(...values));
}
const share = (node, n) => node.kind === "subtract" && n ? -1 : node.scale;
const merge = {
  forward(node, xs, out) {
    const chooses = !["add", "subtract", "multiply"].includes(node.kind);
    for (let k = 0; k < out.length; k++) {
      const at = n => xs[n][inward(node.shapes[n], k, node.shape)];
      if (chooses) out[k] = at(chosen(node, xs, k));
      else out[k] = xs.reduce((so, _, n) => node.kind === "multiply" ? so * at(n) : so + share(node, n) * at(n), node.kind === "multiply" ? 1 : 0);
    }
  },
  backward(node, dxs, xs, out, dout) {
    const chooses = !["add", "subtract", "multiply"].includes(node.kind);
    for (let k = 0; k < dout.length; k++) dxs.forEach((dx, n) => {
      const at = m => inward(node.shapes[m], k, node.shape);
      const factor = node.kind === "multiply" ? xs.reduce((so, x, m) => m === n ? so : so * x[at(m)], 1) : chooses ? +(chosen(node, xs, k) === n) : share(node, n);
      dx[at(n)] += factor * dout[k];
    });
  },
};
// Where each number of the smaller array lies in the larger one: a picture within its border, a part of a concatenation.
export function placed(node, n) {
  const [H, W, C] = node.op === "Pad2D" ? node.x : [1, 1, 1], found = [];
  if (node.op === "Pad2D") { for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) for (let c = 0; c < C; c++) found.push(((i + node.corner[0]) * node.shape[1] + j + node.corner[1]) * C + c); return found; }
  const own = node.shapes[n], inner = size(own.slice(node.axis)), whole = size(node.shape.slice(node.axis)), begin = size(node.shape.slice(node.axis + 1)) * node.shapes.slice(0, n).reduce((sum, s) => sum + s[node.axis], 0);
  for (let k = 0; k < size(own); k++) found.push(Math.floor(k / inner) * whole + begin + k % inner);
  return found;
}
const place = {
  forward: (node, xs, out) => xs.forEach((x, n) => placed(node, n).forEach((to, k) => { out[to] = x[k]; })),
  backward: (node, dxs, xs, out, dout) => dxs.forEach((dx, n) => placed(node, n).forEach((to, k) => { dx[k] += dout[to]; })),
};
export const source = (node, k) => { const [H, W, C] = node.shape, rows = H / node.x[0], columns = W / node.x[1]; return (Math.floor(Math.floor(k / C / W) / rows) * node.x[1] + Math.floor(Math.floor(k / C) % W / columns)) * C + k % C; };
const softmax = {
  forward(node, [x], out) {
    const C = node.shape.at(-1);
    for (let at = 0; at < x.length; at += C) {
      const row = x.subarray(at, at + C), top = Math.max(...row), e = row.map(v => Math.exp(v - top)), sum = e.reduce((a, b) => a + b, 0);
      out.set(e.map(v => v / sum), at);
    }
  },
  backward(node, [dx], xs, out, dout) {
    const C = node.shape.at(-1);
    for (let at = 0; at < out.length; at += C) {
      let mean = 0;
      for (let c = at; c < at + C; c++) mean += dout[c] * out[c];
      for (let c = at; c < at + C; c++) dx[c] += out[c] * (dout[c] - mean);
    }
  },
};
// By the moving statistics: a scale and a shift of each channel.
const batchNorm = {
  forward(node, [x], out, step) {
    const { mean, inverse } = step.statistics(node), C = mean.length, gamma = node.scales && step.weight(node, "gamma"), beta = node.centers && step.weight(node, "beta");
    for (let k = 0; k < x.length; k++) { const c = k % C; out[k] = (x[k] - mean[c]) * inverse[c] * (gamma ? gamma[c] : 1) + (beta ? beta[c] : 0); }
  },
  backward(node, [dx], [x], out, dout, step) {
    const { mean, inverse } = step.statistics(node), C = mean.length, gamma = node.scales && step.weight(node, "gamma"), dgamma = node.scales && step.dweight(node, "gamma"), dbeta = node.centers && step.dweight(node, "beta");
    for (let k = 0; k < x.length; k++) {
      const c = k % C;
      dx[k] += dout[k] * inverse[c] * (gamma ? gamma[c] : 1);
      if (dgamma) dgamma[c] += dout[k] * (x[k] - mean[c]) * inverse[c];
      if (dbeta) dbeta[c] += dout[k];
    }
  },
};
// Over the last axes of a sample: of each row mean and deviation, and what they make of it.
export function rowOf(node, x, row) {
  const M = size(node.shape.slice(node.shape.length - node.axes)), part = x.subarray(row * M, (row + 1) * M), mean = part.reduce((a, b) => a + b, 0) / M;
  return { M, mean, inverse: 1 / Math.sqrt(part.reduce((so, v) => so + (v - mean) ** 2, 0) / M + node.epsilon) };
}
const layerNorm = {
  forward(node, [x], out, step) {
    const gamma = node.scales && step.weight(node, "gamma"), beta = node.centers && step.weight(node, "beta");
    for (let row = 0, at = 0; at < x.length; row++) {
      const { M, mean, inverse } = rowOf(node, x, row);
      for (let k = 0; k < M; k++, at++) out[at] = (x[at] - mean) * inverse * (gamma ? gamma[k] : 1) + (beta ? beta[k] : 0);
    }
  },
  backward(node, [dx], [x], out, dout, step) {
    const dgamma = node.scales && step.dweight(node, "gamma"), dbeta = node.centers && step.dweight(node, "beta");
    for (let row = 0, at = 0; at < x.length; row++) {
      const { M, mean, inverse, gradient, slope, g } = sharesOf(node, x, dout, row, step);
      for (let k = 0; k < M; k++, at++) {
        const normal = (x[at] - mean) * inverse;
        dx[at] += inverse * (g[k] - gradient - normal * slope);
        if (dgamma) dgamma[k] += dout[at] * normal;
        if (dbeta) dbeta[k] += dout[at];
      }
    }
  },
};
// g = gamma · dout of a row, its mean, and its mean with x̂.
export function sharesOf(node, x, dout, row, step) {
  const found = rowOf(node, x, row), { M, mean, inverse } = found, gamma = node.scales && step.weight(node, "gamma"), g = Array.from({ length: M }, (_, k) => dout[row * M + k] * (gamma ? gamma[k] : 1));
  return { ...found, g, gradient: g.reduce((a, b) => a + b, 0) / M, slope: g.reduce((so, v, k) => so + v * (x[row * M + k] - mean) * inverse, 0) / M };
}
export const OPS = {
  Conv2D: linear, DepthwiseConv2D: linear, Conv2DTranspose: linear, Dense: linear, Softmax: softmax, BatchNorm: batchNorm, LayerNorm: layerNorm, Merge: merge, Concatenate: place, Pad2D: place,
  MaxPool2D: {
    forward: (node, [x], out) => winners(node, x).forEach((from, k) => { out[k] = x[from]; }),
    backward: (node, [dx], [x], out, dout) => winners(node, x).forEach((from, k) => { dx[from] += dout[k]; }),
  },
  AveragePool2D: {
    forward(node, [x], out) { const g = geometry(node), count = members(node); eachTap(g, (o, p) => { for (let c = 0; c < g.C; c++) out[o * g.C + c] += x[p * g.C + c] / count[o]; }); },
    backward(node, [dx], xs, out, dout) { const g = geometry(node), count = members(node); eachTap(g, (o, p) => { for (let c = 0; c < g.C; c++) dx[p * g.C + c] += dout[o * g.C + c] / count[o]; }); },
  },
  Activation: {
    forward(node, [x], out) { const [f] = CURVES[node.kind]; for (let k = 0; k < x.length; k++) out[k] = f(x[k], ...node.options); },
    backward(node, [dx], [x], out, dout) { const [, slope] = CURVES[node.kind]; for (let k = 0; k < x.length; k++) dx[k] += dout[k] * slope(x[k], out[k], ...node.options); },
  },
  Reshape: { forward: (node, [x], out) => out.set(x), backward: (node, [dx], xs, out, dout) => dout.forEach((v, k) => { dx[k] += v; }) },
  Rescale: { forward: (node, [x], out) => x.forEach((v, k) => { out[k] = v * node.scale + node.shift; }), backward: (node, [dx], xs, out, dout) => dout.forEach((v, k) => { dx[k] += v * node.scale; }) },
  Dropout: {
    forward: (node, [x], out, step) => x.forEach((v, k) => { out[k] = v * step.kept(node, k); }),
    backward: (node, [dx], xs, out, dout, step) => dout.forEach((v, k) => { dx[k] += v * step.kept(node, k); }),
  },
  Upsample2D: { forward: (node, [x], out) => out.forEach((_, k) => { out[k] = x[source(node, k)]; }), backward: (node, [dx], xs, out, dout) => dout.forEach((v, k) => { dx[source(node, k)] += v; }) },
};
