// Who explains what: from the name of an array to the op that computed it (tinyconv/trace/explain.py).
import { linear } from "./explain_linear.js";
import { route, multiplied } from "./explain_routes.js";
import { activation, softmax, normal, lossTerms, ofProbabilities, then, options } from "./explain_functions.js";
import { explainStep, clippedGradients } from "./updates.js";
import { explanation, column, rows, single, because } from "./terms.js";
import { zero, lost, lostBy } from "./reasons.js";
import { CURVES } from "./curves.js";
import { Step } from "./step.js";

const source = { output: (step, node, place) => ({ found: [single(["the batch", place, step.number(node.n, place)])], sentences: [`A number of sample ${place[0]}, as it was handed over.`] }) };
const EXPLAINERS = { Source: source, Conv2D: linear, DepthwiseConv2D: linear, Conv2DTranspose: linear, Dense: linear, Activation: activation, Softmax: softmax, BatchNorm: normal, LayerNorm: normal };
for (const op of ["MaxPool2D", "AveragePool2D", "Reshape", "Dropout", "Rescale", "Pad2D", "Upsample2D", "Concatenate"]) EXPLAINERS[op] = route;
const unknown = node => ({ output: () => ({ found: [], sentences: [`This page's engine does not know ${node.layer}, so it cannot take this number apart. The program can: tinyconv explore.`] }) });
const of = node => node.op === "Merge" ? node.kind === "multiply" ? multiplied : route : EXPLAINERS[node.op] ?? { ...unknown(node), dinput: unknown(node).output };

// A step whose numbers can be explained.
export class Explained extends Step {
  cache = {};
  cached(node, what, make) { return this.cache[`${node.n} ${what}`] ??= make(); }
  flat(n, place) { const { shape } = this.net.byNumber[n]; return place.slice(1).reduce((at, i, axis) => at * shape[axis] + i, 0); }
  inside(n, place) { const { shape } = this.net.byNumber[n]; return place.slice(1).every((i, axis) => i >= 0 && i < shape[axis]); }
  number(n, place) { return this.inside(n, place) ? this.outs[n][this.flat(n, place)] : 0; }
  slope(node, k) { return CURVES[node.kind][1](this.outs[node.reads[0]][k], this.outs[node.n][k], ...node.options); }
  zero(n, k) { return zero(this, n, k); }
  lost(n, k) { return lost(this, n, k); }
  readers(n) {
    const nodes = this.net.nodes.flatMap(node => node.reads.flatMap((read, k) => read === n ? [{ node, k }] : []));
    return [...nodes, ...this.net.losses.filter(loss => loss.read === n).map(loss => ({ loss, k: 0 }))];
  }
  // Columns of terms, and why a number in them is zero.
  xColumn(node, k, places) { const n = node.reads[k]; return column(node.takes[k], places.map(p => this.number(n, p)), places); }
  doutColumn(node, places) { const dout = this.douts[node.n]; return column(`d${node.called}`, places.map(p => dout && this.inside(node.n, p) ? dout[this.flat(node.n, p)] : 0), places); }
  weightColumn(node, name, places) {
    const array = this.weight(node, name), whole = node.names?.[name] ?? name, { shape } = this.net.weights[`${node.path}/${whole}`];
    return column(whole, places.map(p => array[p.reduce((at, i, axis) => at * shape[axis] + i, 0)]), places);
  }
  whyX(node, k, x, row) { const n = node.reads[k]; return this.inside(n, x.places[row]) ? this.zero(n, this.flat(n, x.places[row])) : ""; }
  whyDout(node, dout, row) { return this.inside(node.n, dout.places[row]) ? this.lost(node.n, this.flat(node.n, dout.places[row])) : ""; }

  // ---------------------------------------------------------------- by the name of an array
  explain(use, what, place) {
    const own = this.told(use, what, place), theory = this.net.theory[`${use.name} ${what}${own.theory ? ` ${own.theory}` : ""}`] ?? this.net.theory[`${use.name} ${what}`];
    return explanation({ layer: use.name, what: what.startsWith("step/") ? "step" : what, place, weight: what.startsWith("step/") ? what.slice(5) : "", ...own }, theory);
  }
  told(use, what, place) {
    const nodes = use.nodes.map(n => this.net.byNumber[n]);
    if (what === "output") return this.output(use, nodes, place);
    if (what === "z") return { value: this.number(nodes.at(-2).n, place), ...of(nodes.at(-2)).output(this, nodes.at(-2), place) };
    if (what === "doutput") return { value: this.douts[use.gives][this.flat(use.gives, place)], ...this.gradient(use.gives, place) };
    if (what === "dz") return { value: this.douts[nodes.at(-2).n][this.flat(nodes.at(-2).n, place)], ...this.dinput(nodes.at(-1), 0, place) };
    if (what.startsWith("step/")) return this.update(`${use.path}/${what.slice(5)}`, place);
    const weight = this.net.weights[`${use.path}/${what}`], value = weight.value[place.reduce((at, i, axis) => at * weight.shape[axis] + i, 0)];
    return { value, found: [single([what, place, value])], sentences: ["A weight, as it is before the step."] };
  }
  // An activation behind the sum of the same layer is what is done with that sum.
  output(use, nodes, place) {
    const last = nodes.at(-1) ?? this.net.byNumber[use.gives], value = this.number(use.gives, place);
    if (!nodes.length) return { value, found: [single(["input", place, value])], sentences: ["The layer changes nothing."] };
    if (last.op !== "Activation" || nodes.length === 1) return { value, ...of(last).output(this, last, place) };
    const before = nodes.at(-2), inner = of(before).output(this, before, place), after = of(last).output(this, last, place), sum = inner.found.reduce((so, row) => so + row.values.reduce((a, b) => a + b, 0), 0);
    return { ...inner, value, then: [...inner.then ?? [], then(last, inner.then?.at(-1).value ?? sum)], facts: [...inner.facts ?? [], ...options(last)], sentences: [...inner.sentences, ...after.sentences] };
  }
  dinput(node, k, place) {
    const loss = this.net.losses.find(l => l.absorbed && l.read === node.n);
    return loss ? lossTerms.dinput(this, loss, place) : of(node).dinput(this, node, k, place);
  }
  // What the readers of a value hand back, in the order in which it is added.
  gradient(n, place) {
    const readers = this.readers(n);
    if (readers.length !== 1) return this.joined(n, readers, place);
    const [{ node, loss, k }] = readers;
    if (loss) return lossTerms.dinput(this, loss, place, loss.absorbed ? ofProbabilities(loss) : loss.kind);
    const found = this.dinput(node, k, place);
    return { ...found, sentences: [...found.sentences, `The only reader is ${node.where}, so this is the gradient of its input.`] };
  }
  joined(n, readers, place) {
    const found = readers.map(({ node, loss, k }) => {
      const rows = (loss ? lossTerms.dinput(this, loss, place) : this.dinput(node, k, place)).found, value = rows.reduce((so, row) => so + row.values.reduce((a, b) => a + b, 0), 0);
      return because(single([`${loss ? loss.name : node.where}: d${loss ? "input" : node.takes[k]}`, place, value]), lostBy(this, { node, loss, k }, this.flat(n, place)));
    });
    return { found, sentences: [readers.length ? `The value has ${readers.length} readers; each hands a gradient back, and they are added in this order.` : "No loss depends on it."] };
  }
  get clipped() { return this._clipped ??= clippedGradients(this.net, this.dweights); }
  update(name, place) {
    const weight = this.net.weights[name], k = place.reduce((at, i, axis) => at * weight.shape[axis] + i, 0), found = explainStep(this.net, name, k, place, this.dweights, this.clipped);
    return { value: found.found.reduce((sum, row) => sum + row.values[0], 0), ...found };
  }
  // The loss of the batch: of several outputs the weighted sum.
  explainWhole() {
    const found = this.net.losses.map(({ name, weight }) => {
      const losses = this.losses[name], N = losses.length, constant = (called, value) => column(called, losses.map(() => value));
      return rows([column("losses", losses, losses.map((_, n) => [n])), constant(`1 / ${N}`, 1 / N), ...weight === 1 ? [] : [constant("loss weight", weight)]]);
    });
    if (this.penalty) found.push(single(["the penalties on large weights", null, this.penalty]));
    return explanation({ layer: "loss", what: "loss", place: [], value: this.loss, found, sentences: [found.length === 1 ? "The mean of the rows' losses." : "The sum of all parts that compile() asked for."] }, this.net.theory.loss);
  }
  explainLoss(loss) { return explanation({ layer: loss.name, what: "losses", place: [0], value: this.losses[loss.name][0], ...lossTerms.output(this, loss, 0) }, this.net.theory[`${loss.name} losses`]); }
}
