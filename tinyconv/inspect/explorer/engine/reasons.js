// Why a number is zero, as tinyconv/trace/explainer.py says it: of values, and of their gradients. "": it is not, or happens to be.
import { winners, placed, source, chosen } from "./ops.js";
import { geometry } from "./windows.js";
import { clipped } from "./losses.js";

const same = (step, node, k) => step.zero(node.reads[0], k);
// Of number k of a node's output.
const ZEROS = {
  Source: () => "zero in the input",
  Activation: (step, node) => ["relu", "bounded_relu"].includes(node.kind) ? "ReLU shut" : "",
  MaxPool2D: (step, node, k) => step.zero(node.reads[0], step.cached(node, "winners", () => winners(node, step.xs(node)[0]))[k]),
  Reshape: same,
  Rescale: (step, node, k) => node.shift ? "" : same(step, node, k),
  Dropout: (step, node, k) => step.kept(node, k) ? same(step, node, k) : "dropped",
  Upsample2D: (step, node, k) => step.zero(node.reads[0], source(node, k)),
  Pad2D: (step, node, k) => { const from = step.cached(node, "placed", () => placed(node, 0)).indexOf(k); return from < 0 ? "a zero of the border" : step.zero(node.reads[0], from); },
  Concatenate: (step, node, k) => { for (const [n, read] of node.reads.entries()) { const from = step.cached(node, `placed${n}`, () => placed(node, n)).indexOf(k); if (from >= 0) return step.zero(read, from); } return ""; },
};
export const zero = (step, n, k) => step.outs[n][k] !== 0 ? "" : ZEROS[step.net.byNumber[n].op]?.(step, step.net.byNumber[n], k) ?? "";

// Of number k of the gradient of a node's output: what all its readers agree on.
export function lost(step, n, k) {
  if (step.douts[n] && step.douts[n][k] !== 0) return "";
  const readers = step.readers(n);
  if (!readers.length) return "no loss depends on it";
  const said = readers.map(reader => lostBy(step, reader, k));
  return said.every(Boolean) ? said.at(-1) : "";
}
// What one of them says of it.
export const lostBy = (step, { node, loss, k: n }, k) => loss ? lostAtLoss(step, loss, k) : (LOST[node.op] ?? whole)(step, node, k, n);
function lostAtLoss(step, loss, k) {
  const clips = ["cross_entropy", "binary_cross_entropy"].includes(loss.kind);
  return clips && clipped(step.outs[loss.read][k]) ? "the probability was clipped" : "";
}
// Where all of an output has one reason, so has the input.
function whole(step, node) {
  return step.cached(node, "lost", () => { const all = step.douts[node.n]; if (!all || all.some(v => v !== 0)) return ""; const first = lost(step, node.n, 0); return all.every((_, k) => lost(step, node.n, k) === first) ? first : ""; });
}
const on = (step, node, k) => lost(step, node.n, k);
const LOST = {
  Activation(step, node, k) {
    const loss = step.net.losses.find(l => l.absorbed && l.read === node.n);
    if (loss) return "";
    return step.slope(node, k) === 0 ? node.kind === "relu" ? "ReLU shut" : "flat there" : on(step, node, k);
  },
  MaxPool2D(step, node, k) {
    const won = step.cached(node, "winners", () => winners(node, step.xs(node)[0])), own = step.cached(node, "windows", () => windowsOver(node))[k] ?? [];
    if (!own.length) return "in no window";
    const reasons = own.map(o => won[o] === k ? lost(step, node.n, o) : "lost the pool");
    return own.some((o, n) => won[o] === k && !reasons[n]) ? "" : reasons.findLast((_, n) => won[own[n]] === k) ?? "lost the pool";
  },
  AveragePool2D: (step, node, k) => step.cached(node, "windows", () => windowsOver(node))[k] ? "" : "in no window",
  Reshape: on, Rescale: on,
  BatchNorm: (step, node, k) => step.statistics(node).fixed ? on(step, node, k) : whole(step, node),
  Dropout: (step, node, k) => step.kept(node, k) ? on(step, node, k) : "dropped",
  Pad2D: (step, node, k) => lost(step, node.n, step.cached(node, "placed", () => placed(node, 0))[k]),
  Concatenate: (step, node, k, n) => lost(step, node.n, step.cached(node, `placed${n}`, () => placed(node, n))[k]),
  Merge(step, node, k, n) {
    if (node.kind === "multiply") return whole(step, node);
    if (node.shapes[n].join() !== node.shape.join()) return "";
    return ["add", "subtract"].includes(node.kind) || chosen(node, step.xs(node), k) === n ? on(step, node, k) : "another input was chosen";
  },
};
// Of every pixel the numbers of the windows over it.
function windowsOver(node) {
  const g = geometry(node), found = {};
  const [SH, SW] = g.small;
  for (let i = 0; i < SH; i++) for (let j = 0; j < SW; j++) for (let a = 0; a < g.size[0]; a++) for (let b = 0; b < g.size[1]; b++) {
    const u = i * g.strides[0] + a - g.padding[0], v = j * g.strides[1] + b - g.padding[1];
    if (u >= 0 && v >= 0 && u < g.large[0] && v < g.large[1]) for (let c = 0; c < g.C; c++) (found[(u * g.large[1] + v) * g.C + c] ??= []).push((i * SW + j) * g.C + c);
  }
  return found;
}
