// Functions of few numbers: activations, softmax, normalisations, losses (tinyconv/trace/pointwise.py, normal.py, losses.py).
import { CURVES } from "./curves.js";
import { LOSSES, OF_PROBABILITIES, clip, clipped } from "./losses.js";
import { rowOf, sharesOf } from "./ops.js";
import { column, rows, single, because, counted, listed, number, general } from "./terms.js";

const OPTIONS = { leaky_relu: ["α"], bounded_relu: ["α", "m", "t"], elu: ["α"] };
const at = (step, n, place) => step.number(n, place);
// What an activation makes of a number.
export const then = (node, x) => ({ text: node.kind === "relu" ? `max(0, ${number(x)})` : `${node.kind}(${number(x)})`, value: CURVES[node.kind][0](x, ...node.options) });
export const options = node => (OPTIONS[node.kind] ?? []).map((name, k) => ({ name, value: node.options[k], text: "" }));
const shut = (step, node, place) => node.kind === "relu" && at(step, node.n, place) <= 0 ? `ReLU is shut here: ${number(at(step, node.reads[0], place))} is not above 0.` : "";

export const activation = {
  output(step, node, place) {
    const x = at(step, node.reads[0], place);
    return { found: [single([node.takes[0], place, x])], then: [then(node, x)], facts: options(node), sentences: [`${node.kind} of the number at the same place, ${number(x)}.`, shut(step, node, place)] };
  },
  dinput(step, node, k, place) {
    const x = at(step, node.reads[0], place), slope = step.slope(node, step.flat(node.n, place)), dout = step.doutColumn(node, [place]);
    const why = slope ? step.whyDout(node, dout, 0) : step.lost(node.reads[0], step.flat(node.n, place));
    return {
      found: [because(single([`d${node.called}`, place, dout.values[0]], [`f'(${number(x)})`, null, slope]), why)],
      sentences: [`The gradient is multiplied by the slope of ${node.kind} at ${number(x)}, which is ${number(slope)}.`, shut(step, node, place)],
    };
  },
};
const row = (node, place) => Array.from({ length: node.shape.at(-1) }, (_, c) => [...place.slice(0, -1), c]);
export const softmax = {
  output(step, node, place) {
    const places = row(node, place), z = places.map(p => at(step, node.reads[0], p)), top = Math.max(...z), powers = z.map(v => Math.exp(v - top)), all = powers.reduce((a, b) => a + b, 0), c = place.at(-1), own = general(powers[c]);
    return {
      found: [rows([column(`e^(${node.takes[0]} − max)`, powers, places)])], then: [{ text: `${own} / ${general(all)}`, value: powers[c] / all }],
      sentences: [`The scores of row ${listed(place.slice(0, -1))} as shares that add up to 1.`, `The score ${general(z[c])} of class ${c} makes ${own} of ${general(all)}.`],
    };
  },
  dinput(step, node, k, place) {
    const places = row(node, place), c = place.at(-1), dout = step.doutColumn(node, places), p = column(node.called, places.map(q => at(step, node.n, q)), places);
    const rest = column("(1 if the same) − p of this class", places.map((_, i) => (i === c) - at(step, node.n, place)));
    return { found: [rows([dout, p, rest], i => step.whyDout(node, dout, i))], sentences: [`Score ${c} enters the probabilities of all ${places.length} classes: its own with p (1 − p), others with −p p.`] };
  },
};
// Of a number the statistics that it is normalised by, what they are over, and where gamma and beta stand that belong to it.
function statistics(step, node, place) {
  if (node.op === "BatchNorm") {
    const s = step.statistics(node), c = place.at(-1);
    return { mean: s.mean[c], inverse: s.inverse[c], fixed: s.fixed, gradient: s.gradient?.[c], slope: s.slope?.[c], own: [c], over: s.fixed ? "the moving statistics" : "the channel in the whole batch" };
  }
  const own = place.slice(place.length - node.axes), x = step.xs(node)[0], dout = step.douts[node.n], M = node.shape.slice(node.shape.length - node.axes).reduce((a, b) => a * b, 1), row = Math.floor(step.flat(node.n, place) / M);
  return { ...dout ? sharesOf(node, x, dout, row, step) : rowOf(node, x, row), own, over: "the sample's last axes" };
}
const normalFacts = (node, s) => [{ name: "mean", value: s.mean, text: `of ${s.over}` }, { name: "deviation", value: 1 / s.inverse, text: `the root of the variance + ${general(node.epsilon, 6)}` }];
const learned = (step, node, name, own) => { const { shape } = step.net.weights[`${node.path}/${name}`]; return [name, own, step.weight(node, name)[own.reduce((so, i, axis) => so * shape[axis] + i, 0)]]; };
const gammaOf = (step, node, own) => node.scales ? [learned(step, node, "gamma", own)] : [];
export const normal = {
  output(step, node, place) {
    const s = statistics(step, node, place), x = at(step, node.reads[0], place), hat = (x - s.mean) * s.inverse, found = [single(...gammaOf(step, node, s.own), ["x̂", place, hat])];
    if (node.centers) found.push(single(learned(step, node, "beta", s.own)));
    return {
      found, facts: normalFacts(node, s), theory: s.fixed ? "fixed" : "",
      sentences: [`${general(x)} is ${general(Math.abs(hat))} deviations ${hat >= 0 ? "above" : "below"} the mean of ${s.over}.`, "gamma and beta, which are learned, set the deviation and the mean of what comes out."],
    };
  },
  dinput(step, node, k, place) {
    const s = statistics(step, node, place), scale = ["1 / deviation", null, s.inverse], dout = step.doutColumn(node, [place]);
    const found = [because(single(...gammaOf(step, node, s.own), scale, [`d${node.called}`, place, dout.values[0]]), step.whyDout(node, dout, 0))];
    if (!s.fixed) {
      const hat = (at(step, node.reads[0], place) - s.mean) * s.inverse;
      found.push(single(scale, ["− the mean of gamma × dout", null, -s.gradient]), single(scale, ["−x̂", place, -hat], ["the mean of gamma × dout × x̂", null, s.slope]));
    }
    return {
      found, facts: normalFacts(node, s), theory: s.fixed ? "fixed" : "",
      sentences: s.fixed ? ["Mean and deviation are constants here, so the gradient passes times a factor."] : ["The number moves its own x̂, the mean, and the deviation: three ways to the loss.", `The two means are over the same numbers as the statistics: ${s.over}.`],
    };
  },
};

// ---------------------------------------------------------------- losses
const lossRow = (values, loss, r) => Array.from(values.subarray(r * loss.columns, (r + 1) * loss.columns));
function truth(step, loss, x, t, kind) {
  if (!kind.endsWith("cross_entropy") || kind.includes("binary") || kind.includes("sigmoid")) return `The mean over ${counted(loss.columns, "column")}.`;
  const p = LOSSES[kind].probs?.(x) ?? x, most = Math.max(...p);
  return `The truth is class ${t.indexOf(Math.max(...t))}, the answer class ${p.indexOf(most)} with ${general(most)}. Guessing among ${loss.columns} would cost ${Math.log(loss.columns).toFixed(4)}.`;
}
const lossFacts = loss => [...Object.entries(loss.options).map(([name, value]) => ({ name, value, text: "" })), ...loss.smoothing ? [{ name: "label_smoothing", value: loss.smoothing[0], text: "the targets are smoothed" }] : []];
const placesOf = (loss, r) => { const shape = loss.shape; return Array.from({ length: loss.columns }, (_, c) => { let k = r * loss.columns + c; return [0, ...[...shape].reverse().map(n => { const i = k % n; k = Math.floor(k / n); return i; }).reverse()]; }); };
const rowsOf = (step, loss) => step.outs[step.scores(loss)].length / loss.columns * step.batch;

export const lossTerms = {
  output(step, loss, r) {
    const x = lossRow(step.outs[step.scores(loss)], loss, r), t = lossRow(step.given.targets[step.net.losses.indexOf(loss)], loss, r), L = LOSSES[loss.kind], places = placesOf(loss, r), C = loss.columns;
    const costs = column(L.called, L.costs(x, t, loss.options), places), found = L.mean ? rows([column(`1 / ${C}`, t.map(() => 1 / C)), costs]) : rows([column("targets", t, places), costs], i => t[i] ? "" : "not the truth");
    return { found: [found], facts: lossFacts(loss), sentences: [`The loss of row ${r}, one of ${rowsOf(step, loss)}.`, truth(step, loss, x, t, loss.kind)] };
  },
  // kind: of a loss that starts from scores, what it would have been of the probabilities.
  dinput(step, loss, place, kind = loss.kind) {
    const read = kind === loss.kind ? step.scores(loss) : loss.read, r = Math.floor(step.flat(read, place) / loss.columns), C = loss.columns, c = place.at(-1), N = rowsOf(step, loss);
    const x = lossRow(step.outs[read], loss, r), t = lossRow(step.given.targets[step.net.losses.indexOf(loss)], loss, r), factor = loss.weight * (loss.summed ? N : 1), L = LOSSES[kind], count = L.mean ? N * C : N, name = L.mean ? `(${N} · ${C})` : `${N}`;
    const share = [factor === 1 ? `1 / ${name}` : `${general(factor)} / ${name}`, null, factor / count];
    return {
      found: gradients(kind, loss, x, t, c, place, share, placesOf(loss, r)), facts: lossFacts(loss),
      sentences: [`Row ${r} is one of ${N}, over which the loss is the mean.`, truth(step, loss, x, t, kind), factor !== 1 ? `Its loss counts ${general(factor)} times.` : ""],
    };
  },
};
export const ofProbabilities = loss => OF_PROBABILITIES[loss.kind];
function gradients(kind, loss, x, t, c, place, share, places) {
  if (kind === "softmax_cross_entropy" || kind === "sigmoid_cross_entropy") {
    const p = LOSSES[kind].probs(x)[c], total = t.reduce((a, b) => a + b, 0), sums = kind[1] === "i" || Math.abs(total - 1) < 1e-6 ? [] : [["the sum of the targets", null, total]];
    return [single(["p", place, p], ...sums, share), single(["−t", place, -t[c]], share)];
  }
  if (kind === "cross_entropy") {
    const all = x.reduce((a, b) => a + b, 0), q = x.map(p => p / all), g = q.map((p, k) => clipped(p) ? 0 : -t[k] / p);
    return [rows([column("−t / q", g, places), column("(1 if the same) − q", q.map((p, k) => (k === c) - p), places), column(share[0], q.map(() => share[2] / all))], k => t[k] ? "its probability was clipped" : "not the truth")];
  }
  const error = x[c] - t[c];
  if (kind === "binary_cross_entropy") return [because(single(["p − t", place, error], ["1 / (p (1 − p))", null, clipped(x[c]) ? 0 : 1 / (x[c] * (1 - x[c]))], share), clipped(x[c]) ? "its probability was clipped" : "")];
  const [name, value] = kind === "mean_squared_error" ? ["2 (p − t)", 2 * error] : kind === "mean_absolute_error" ? ["the sign of p − t", Math.sign(error)] : [`p − t, clipped to ${general(loss.options.delta, 6)}`, clip(error, -loss.options.delta, loss.options.delta)];
  return [single([name, place, value], share)];
}
