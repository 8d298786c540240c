// Losses of rows, and their gradients, as in tinyconv/kernels/reference/loss.py.
const EPSILON = 1e-7, sum = row => row.reduce((a, b) => a + b, 0);
export const clip = (p, low = EPSILON, high = 1 - EPSILON) => Math.min(Math.max(p, low), high);
export const clipped = p => p < EPSILON || p > 1 - EPSILON;
const softmaxOf = z => { const top = Math.max(...z), e = Array.from(z, v => Math.exp(v - top)), all = sum(e); return e.map(v => v / all); };
const sigmoidOf = z => Array.from(z, v => { const e = Math.exp(-Math.abs(v)); return (v >= 0 ? 1 : e) / (1 + e); });
const means = { name: "", mean: true };

// For each kind: what each column costs, whether targets choose among the columns (else their mean is taken), the slope
// of a row's loss along each column, and the probabilities where the loss makes them of scores.
export const LOSSES = {
  softmax_cross_entropy: {
    costs: x => { const top = Math.max(...x), log = Math.log(sum(Array.from(x, v => Math.exp(v - top)))); return Array.from(x, v => log - (v - top)); },
    called: "−log p", probs: softmaxOf,
    slopes: (x, t) => { const total = sum(t); return softmaxOf(x).map((p, c) => p * total - t[c]); },
  },
  cross_entropy: {
    costs: x => { const all = sum(x); return Array.from(x, p => -Math.log(clip(p / all))); },
    called: "−log q",
    slopes(x, t) {
      const all = sum(x), q = Array.from(x, p => p / all), g = q.map((p, c) => clipped(p) ? 0 : -t[c] / p), mean = sum(g.map((v, c) => v * q[c]));
      return g.map(v => (v - mean) / all);
    },
  },
  sigmoid_cross_entropy: {
    ...means, costs: (x, t) => Array.from(x, (z, c) => Math.max(z, 0) - z * t[c] + Math.log1p(Math.exp(-Math.abs(z)))),
    called: "loss of a column", probs: sigmoidOf,
    slopes: (x, t) => sigmoidOf(x).map((p, c) => p - t[c]),
  },
  binary_cross_entropy: {
    ...means, costs: (x, t) => Array.from(x, (p, c) => { const q = clip(p); return -(t[c] * Math.log(q) + (1 - t[c]) * Math.log1p(-q)); }),
    called: "loss of a column",
    slopes: (x, t) => Array.from(x, (p, c) => clipped(p) ? 0 : (p - t[c]) / (p * (1 - p))),
  },
  mean_squared_error: { ...means, costs: (x, t) => Array.from(x, (p, c) => (p - t[c]) ** 2), called: "(p − t)²", slopes: (x, t) => Array.from(x, (p, c) => 2 * (p - t[c])) },
  mean_absolute_error: { ...means, costs: (x, t) => Array.from(x, (p, c) => Math.abs(p - t[c])), called: "|p − t|", slopes: (x, t) => Array.from(x, (p, c) => Math.sign(p - t[c])) },
  huber: {
    ...means, costs: (x, t, { delta }) => Array.from(x, (p, c) => { const e = Math.abs(p - t[c]); return e <= delta ? e * e / 2 : delta * e - delta * delta / 2; }),
    called: "h(p − t)", slopes: (x, t, { delta }) => Array.from(x, (p, c) => clip(p - t[c], -delta, delta)),
  },
};
export const OF_PROBABILITIES = { softmax_cross_entropy: "cross_entropy", sigmoid_cross_entropy: "binary_cross_entropy" };

const rowsOf = (x, C) => Array.from({ length: x.length / C }, (_, r) => x.subarray(r * C, r * C + C));
// The losses of a sample's rows, before the weights that compile() gives.
export function lossesOf(loss, x, t, kind = loss.kind) {
  const { costs, mean } = LOSSES[kind], C = loss.columns, targets = rowsOf(t, C);
  return rowsOf(x, C).map((row, r) => { const each = costs(row, targets[r], loss.options); return mean ? sum(each) / C : sum(each.map((v, c) => v * targets[r][c])); });
}
// The gradient, when there are `rows` of them in the batch.
export function slopesOf(loss, x, t, rows, kind = loss.kind) {
  const { slopes, mean } = LOSSES[kind], C = loss.columns, targets = rowsOf(t, C), share = loss.weight * (loss.summed ? rows : 1) / rows / (mean ? C : 1), out = new Float64Array(x.length);
  rowsOf(x, C).forEach((row, r) => out.set(slopes(row, targets[r], loss.options).map(v => v * share), r * C));
  return out;
}
