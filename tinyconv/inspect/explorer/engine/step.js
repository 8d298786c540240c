// One step of training on one sample: forward, loss, backward, in double precision. What the page has stored of a step
// stands in place of what would be computed.
import { OPS, winners } from "./ops.js";
import { OF_PROBABILITIES, lossesOf, slopesOf } from "./losses.js";
import { size } from "./windows.js";

const NUDGE = 1e-6, NOISE = 1e-8, SINGLE = 1e-6, KINK = 0.01, TOLERANCE = 1e-4;

export const unknown = net => net.nodes.filter(node => node.op !== "Source" && !OPS[node.op]);

// net: nodes in the order of the forward pass, losses, weights by name, as engine.py writes them.
// given: xs by input; targets by loss; outs, douts by node; dweights by name; kept by node: dropout's mask; statistics by
// node: of a batch normalisation in training; rows: samples of the batch that the gradients are of.
export class Step {
  constructor(net, given) {
    this.net = net; this.given = given; this.training = !!given.training; this.batch = given.batch ?? 1;
    this.outs = {}; this.douts = {}; this.dweights = {};
    this.forward(-1);
    if (given.targets) { this.loss = this.lossNow(); this.backward(); }
  }
  weight(node, name) { return this.net.weights[`${node.path}/${node.names?.[name] ?? name}`].value; }
  dweight(node, name) {
    const whole = `${node.path}/${node.names?.[name] ?? name}`, weight = this.net.weights[whole];
    return weight.trained ? this.dweights[whole] ??= new Float64Array(weight.value.length) : null;
  }
  kept(node, k) { return !this.training ? 1 : this.given.kept[node.n][k] ? 1 / (1 - node.rate) : 0; }
  statistics(node) {
    if (this.given.statistics?.[node.n]) return this.given.statistics[node.n];
    const mean = this.weight(node, "moving_mean"), variance = this.weight(node, "moving_variance");
    return { mean, inverse: Float64Array.from(variance, v => 1 / Math.sqrt(v + node.epsilon)), fixed: true };
  }
  xs(node) { return node.reads.map(n => this.outs[n]); }
  // Whatever comes after a node; of all that is stored, nothing is computed again.
  forward(after, fresh = false) {
    for (const node of this.net.nodes) {
      if (node.n <= after) continue;
      const stored = !fresh && this.given.outs?.[node.n];
      if (stored) this.outs[node.n] = Float64Array.from(stored);
      else if (node.op === "Source") this.outs[node.n] = Float64Array.from(this.given.xs[node.input]);
      else { const out = new Float64Array(size(node.shape)); this.known(node).forward(node, this.xs(node), out, this); this.outs[node.n] = out; }
    }
  }
  known(node) {
    if (!OPS[node.op]) throw new Error(`This page's engine does not know ${node.layer} (“${node.path}”).`);
    return OPS[node.op];
  }
  // Which value a loss reads: the scores, where it makes the probabilities itself.
  scores(loss) { return loss.absorbed ? this.net.byNumber[loss.read].reads[0] : loss.read; }
  lossNow() {
    let total = 0;
    this.net.losses.forEach((loss, k) => { const rows = lossesOf(loss, this.outs[this.scores(loss)], this.given.targets[k]); total += loss.weight * rows.reduce((a, b) => a + b, 0) / (loss.summed ? 1 : rows.length); });
    return total + this.penaltyNow();
  }
  penaltyNow() {
    return Object.values(this.net.weights).flatMap(({ value, penalty }) => Object.entries(penalty ?? {}).map(([power, strength]) => strength * value.reduce((so, v) => so + Math.abs(v) ** power, 0))).reduce((a, b) => a + b, 0);
  }
  backward() {
    const { given, net } = this, absorbed = new Set(net.losses.filter(l => l.absorbed).map(l => l.read));
    net.losses.forEach((loss, k) => {
      const at = this.scores(loss), rows = this.outs[at].length / loss.columns * this.batch, x = this.outs[at];
      this.add(at, slopesOf(loss, x, given.targets[k], rows));
      if (loss.absorbed) this.douts[loss.read] = slopesOf(loss, this.outs[loss.read], given.targets[k], rows, OF_PROBABILITIES[loss.kind]);
    });
    for (const node of [...net.nodes].reverse()) {
      if (given.douts?.[node.n]) this.douts[node.n] = Float64Array.from(given.douts[node.n]);
      const dout = this.douts[node.n];
      if (!dout || absorbed.has(node.n) || node.op === "Source" || !OPS[node.op]) continue;
      if (this.done(node)) continue;
      const xs = this.xs(node), dxs = xs.map(x => new Float64Array(x.length));
      OPS[node.op].backward(node, dxs, xs, this.outs[node.n], dout, this);
      node.reads.forEach((n, k) => this.add(n, dxs[k]));
    }
    for (const [name, weight] of Object.entries(net.weights)) {
      if (given.dweights?.[name]) this.dweights[name] = Float64Array.from(given.dweights[name]);
      else if (this.dweights[name]) for (const [power, strength] of Object.entries(weight.penalty ?? {})) weight.value.forEach((v, k) => { this.dweights[name][k] += strength * (power === "2" ? 2 * v : Math.sign(v)); });
    }
  }
  // Whether all that a node's backward pass would give is stored.
  done(node) { return node.reads.every(n => this.given.douts?.[n]) && (node.weights ?? []).every(name => !this.net.weights[name].trained || this.given.dweights?.[name]); }
  add(n, gradient) { if (this.douts[n]) gradient.forEach((v, k) => { this.douts[n][k] += v; }); else this.douts[n] = gradient; }

  // ---------------------------------------------------------------- is a gradient right? (tinyconv/trace/check.py)
  // The same step with nothing stored but the inputs and what was drawn at random.
  get exact() {
    if (this._exact) return this._exact;
    if (this.net.nodes.some(n => this.given.statistics?.[n.n])) throw new Error(`A batch normalisation mixes the ${this.batch} pictures of a batch, and this page has stored one: what a nudge does, the program measures.`);
    return this._exact = new Step(this.net, { ...this.given, outs: null, douts: null, dweights: null });
  }
  nudge(n, k) {
    let node = this.net.byNumber[n];
    while (node.op === "Reshape") node = this.net.byNumber[node.reads[0]];
    if (this.net.losses.some(l => l.absorbed && l.read === node.n)) throw new Error(`The loss starts from the scores, before “${node.path}” makes probabilities of them.`);
    const { exact } = this, array = exact.outs[node.n], before = array[k], losses = [], decided = [];
    for (const step of [-NUDGE, 0, NUDGE]) { array[k] = before + step; exact.forward(node.n, true); losses.push(exact.lossNow()); decided.push(exact.decisions()); }
    array[k] = before; exact.forward(node.n, true);
    return this.judged(node, k, losses, decided);
  }
  judged(node, k, losses, decided) {
    const { exact } = this, [down, here, up] = losses, left = (here - down) / NUDGE, right = (up - here) / NUDGE, slope = (up - down) / (2 * NUDGE), most = a => a.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    const gradient = this.douts[node.n][k], right2 = exact.douts[node.n][k], noise = NOISE * Math.max(1, Math.abs(here)), allowed = TOLERANCE * Math.max(most(this.douts[node.n]), Math.abs(slope)) + noise;
    const isDerivative = Math.abs(right2 - slope) <= allowed, isExact = Math.abs(gradient - right2) <= allowed + SINGLE * Math.max(...Object.values(exact.douts).map(most)), bent = Math.abs(right - left) > KINK * Math.max(Math.abs(right), Math.abs(left)) + noise;
    const error = Math.max(Math.abs(right2 - slope), 1e-16 * Math.abs(slope), 1e-300), digits = slope ? Math.max(Math.trunc(-Math.log10(error / Math.abs(slope))), 0) : 0, found = { gradient, slope, left, right, losses, step: NUDGE, digits };
    if (isDerivative && isExact && !bent) return { ...found, verdict: "agrees" };
    const other = this.decisions() !== exact.decisions();
    if (bent || decided.some(d => d !== decided[1])) return { ...found, verdict: isExact || other ? "kink" : "wrong" };
    return { ...found, verdict: isDerivative && other ? "rounding" : "wrong" };
  }
  // What ReLUs and pools decide, as one text.
  decisions() {
    return this.net.nodes.map(node => {
      const [x] = this.xs(node);
      return node.op === "MaxPool2D" ? winners(node, x).join() : node.op === "Activation" ? Array.from(x, Math.sign).join("") : "";
    }).join("|");
  }
}
