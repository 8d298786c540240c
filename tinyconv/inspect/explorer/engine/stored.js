// What a page that is one file answers instead of the program: from the traces that it has stored and, for what is drawn
// or moved, by its own engine.
import { numbersOf, unpacked } from "./frames.js";
import { Explained } from "./explain.js";
import { unknown } from "./step.js";
import { LOSSES, lossesOf } from "./losses.js";
import { steps } from "./updates.js";
import { warped } from "./warp.js";

const KEPT = 6, WEIGHT_BANDS = ["weight", "step"];
export const watch = () => {};

// ---------------------------------------------------------------- what is stored
async function read(name) {
  const text = document.querySelector(`#stored-${name}`).textContent, bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
const arrays = frame => Object.fromEntries(Object.entries(frame.places).map(([name, [at, size]]) => [name, frame.data.subarray(at, at + size)]));
let loading = null, about = null;
const stored = new Map();
function begin() {
  return loading ??= (async () => {
    about = numbersOf(new TextDecoder().decode(await read("about")));
    const net = about.network, numbers = arrays(unpacked(await read("weights")));
    net.byNumber = Object.fromEntries(net.nodes.map(node => [node.n, node]));
    for (const [name, weight] of Object.entries(net.weights)) {
      weight.value = Float64Array.from(numbers[name]);
      weight.moments = Object.fromEntries(weight.slots.map(slot => [slot, numbers[`${name} ${slot}`]]));
    }
    const strangers = [...new Set(unknown(net).map(node => `${node.layer} (“${node.path}”)`))];
    about.refuses = strangers.length ? `Nothing can be drawn or moved here: this page's own engine does not know ${strangers.join(", ")}. The program does: tinyconv explore.` : "";
  })();
}
async function storedLook(index) {
  if (!stored.has(index)) { const frame = unpacked(await read(`look-${index}`)); stored.set(index, { ...frame, arrays: arrays(frame) }); }
  return stored.get(index);
}
// Of the names "out 3", "out 5" those that begin so, by what follows.
const named = (found, kind) => Object.fromEntries(Object.entries(found).filter(([name]) => name.startsWith(`${kind} `)).map(([name, array]) => [name.slice(kind.length + 1), array]));
function restored({ arrays: found, training, batch, loss, losses, penalty }) {
  const net = about.network, outs = named(found, "out"), means = named(found, "mean"), targets = Object.values(named(found, "targets"));
  const statistics = Object.fromEntries(Object.entries(means).map(([n, mean]) => [n, { mean, inverse: found[`inverse ${n}`], gradient: found[`gradient ${n}`], slope: found[`slope ${n}`] }]));
  const xs = net.nodes.filter(node => node.op === "Source").map(node => outs[node.n]);
  const step = new Explained(net, { xs, outs, douts: named(found, "dout"), dweights: named(found, "gradient"), kept: named(found, "kept"), statistics, training, batch, targets: targets.length ? targets.map(t => Float64Array.from(t)) : null });
  step.losses = losses; step.loss = loss?.value; step.penalty = penalty;
  return step;
}

// ---------------------------------------------------------------- looks
const looks = new Map();
let last = 0;
async function look(asked) {
  const slides = ["across", "down", "turn", "blur"].some(name => asked[name]), index = indexOf(asked);
  let found;
  if (asked.pixels === undefined && !slides && (about.samples || about.refuses)) {
    const kept = await storedLook(index);
    found = { step: restored(kept), more: { loss: kept.loss, broken: kept.broken, answer: kept.answer, truth: kept.truth, assumed: kept.assumed } };
  } else found = await own(asked, asked.pixels === undefined && about.samples ? await storedLook(index) : null);
  const number = ++last;
  looks.set(number, found.step);
  for (const old of [...looks.keys()].slice(0, -KEPT)) looks.delete(old);
  return { look: number, step: about.network.step, moment: null, ...found.more, ...columns(found.step) };
}
const indexOf = asked => Math.min(asked.index ?? 0, Math.max(about.samples - 1, 0));
// A picture that is drawn, or moved, looked at as at inference: nothing is dropped.
async function own(asked, kept) {
  if (about.refuses) throw new Error(about.refuses);
  const net = about.network, [low, high] = about.range, others = kept ?? (about.samples ? await storedLook(indexOf(asked)) : null);
  const xs = net.nodes.filter(node => node.op === "Source").map(({ n, shape }) => others ? Float64Array.from(others.arrays[`out ${n}`]) : new Float64Array(shape.reduce((a, b) => a * b, 1)).fill(low));
  if (asked.pixels) xs[about.lead] = Float64Array.from(atob(asked.pixels), c => low + c.charCodeAt(0) / 255 * (high - low));
  if (about.image) xs[about.lead] = warped(xs[about.lead], about.image, asked);
  const bare = new Explained(net, { xs }), output = bare.outs[net.uses.at(-1).gives], answer = answered(output), truth = kept?.truth ?? answer;
  const targets = kept && !kept.assumed ? Object.values(named(kept.arrays, "targets")).map(t => Float64Array.from(t)) : truth === null || about.question === "numbers" ? null : net.losses.map(loss => targetOf(loss, truth));
  const step = targets?.length ? new Explained(net, { xs, targets }) : bare;
  step.losses = step.loss === undefined ? {} : Object.fromEntries(net.losses.map((loss, k) => [loss.name, lossesOf(loss, step.outs[step.scores(loss)], targets[k])]));
  step.penalty = step.loss === undefined ? 0 : step.penaltyNow();
  return { step, more: { loss: lossOf(step), broken: null, answer, truth, assumed: !kept && truth !== null, own: true } };
}
function answered(output) {
  if (about.question === "classes") return output.indexOf(Math.max(...output));
  return about.question === "two" ? +(output[0] >= 0.5) : null;
}
function targetOf(loss, truth) {
  const plain = Float64Array.from({ length: loss.columns }, (_, c) => about.question === "two" ? truth : +(c === truth));
  return loss.smoothing ? plain.map(t => t * (1 - loss.smoothing[0]) + loss.smoothing[0] * loss.smoothing[1]) : plain;
}
function lossOf(step) {
  if (step.loss === undefined) return null;
  const [loss] = about.network.losses, found = { value: step.loss, after: null, batch: 1 };
  if (about.network.losses.length > 1) return found;
  const x = step.outs[step.scores(loss)], gradient = step.douts[step.scores(loss)];
  return { ...found, name: loss.name, kind: loss.kind, own: step.losses[loss.name][0], ...loss.shape.length === 1 && loss.columns <= 1000 ? { targets: [...step.given.targets[0]], gradient: [...gradient], outputs: LOSSES[loss.kind].probs?.(x) ?? [...x] } : {} };
}

// ---------------------------------------------------------------- as the page keeps a look
function columns(step) {
  const parts = [], net = about.network, found = about.columns.map((c, n) => Object.fromEntries(bandsOf(step, c, net.uses[n]).map(([band, what, shape, array]) => {
    const entry = { what, shape, ...range(array), at: parts.reduce((sum, part) => sum + part.length, 0) };
    parts.push(array);
    return [band, entry];
  })));
  const data = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { data.set(part, at); at += part.length; }
  return { columns: found, data };
}
function bandsOf(step, c, use) {
  const found = [["value", "output", c.shape, step.outs[use.gives]]], what = gradientOf(step, c, use), gradient = what && step.douts[valueOf(use, what)];
  if (gradient) found.push(["gradient", what, c.shape, gradient]);
  for (const [own, shape] of Object.entries(c.weights)) {
    const name = `${use.path}/${own}`;
    found.push([`weight/${own}`, own, shape, about.network.weights[name].value]);
    if (step.dweights[name] && about.network.update) found.push([`step/${own}`, `step/${own}`, shape, steps(about.network, name, step.clipped)]);
  }
  return found;
}
const isLast = c => about.columns.every(d => !d.reads.includes(about.columns.indexOf(c)));
const gradientOf = (step, c, use) => ["softmax", "sigmoid"].includes(c.activation) && c.z && isLast(c) ? "dz" : step.douts[use.gives] ? "doutput" : "";
const valueOf = (use, what) => what === "dz" ? use.nodes.at(-2) : use.gives;
function range(array) {
  let min = Infinity, max = -Infinity, broken = 0;
  for (const v of array) if (Number.isFinite(v)) { if (v < min) min = v; if (v > max) max = v; } else broken++;
  return min > max ? { min: 0, max: 0, broken } : { min, max, broken };
}

// ---------------------------------------------------------------- questions, as the program answers them
function explain({ look, layer, what, place }) {
  const step = looks.get(look), use = about.network.uses.find(u => u.name === layer), loss = about.network.losses.find(l => l.name === layer);
  if (!layer) return step.explainWhole();
  if (loss && !use) return step.explainLoss(loss);
  return step.explain(use, what, WEIGHT_BANDS.some(b => what.startsWith(`${b}/`)) || what in about.columns.find(c => c.name === layer).weights ? place : [0, ...place]);
}
function measure({ look, layer, what, place }) {
  const step = looks.get(look), use = about.network.uses.find(u => u.name === layer), n = valueOf(use, what);
  try {
    const found = step.nudge(n, step.flat(n, [0, ...place]));
    return found.losses.every(Number.isFinite) ? found : { error: "The loss is no finite number here." };
  } catch (error) { return { error: error.message }; }
}
function samples({ list, from, count }) {
  const all = about.listed.items.map((item, k) => ({ ...item, index: k, picture: about.listed.pictures?.[k] })), chosen = list === "worst" ? all.filter(item => item.truth !== item.answer) : all, shown = chosen.slice(from, from + count);
  return { total: chosen.length, from, ready: true, accuracy: about.accuracy, items: shown, pictures: about.listed.pictures && shown.map(item => item.picture) };
}
const ANSWERS = { model: () => about, samples, look, explain, measure };
async function answered_(name, body) { await begin(); return ANSWERS[name](body); }
export const post = answered_, postNumbers = answered_, packed = answered_;
export const binary = async () => new Float32Array();
