// What an optimiser makes of a gradient (tinyconv/kernels/reference/update.py, tinyconv/trace/updates.py).
import { single, general } from "./terms.js";

const RULES = {
  adam_update: {
    after: (u, m) => ({ momentum: u.beta_1 * m.momentum + (1 - u.beta_1) * m.g, velocity: u.beta_2 * m.velocity + (1 - u.beta_2) * m.g ** 2 }),
    terms: (u, p, old, now) => [single(["−α_t", null, -stepSize(u)], ["m", p, now.momentum], ["1 / (√v + ε)", null, now.momentum ? 1 / (Math.sqrt(now.velocity) + u.epsilon) : 0])],
    facts: u => [{ name: "α_t", value: stepSize(u), text: `the learning rate, corrected for step ${u.t}, as m and v begin at 0` }],
  },
  rmsprop_update: {
    after(u, m) {
      const now = { velocity: u.rho * m.velocity + (1 - u.rho) * m.g ** 2 };
      if ("average_gradient" in m) now.average_gradient = u.rho * m.average_gradient + (1 - u.rho) * m.g;
      if ("momentum" in m) now.momentum = u.momentum * m.momentum + u.learning_rate * m.g * rootOf(u, now);
      return now;
    },
    terms(u, p, old, now) {
      const own = single(["−α", null, -u.learning_rate], ["g", p, old.g], ["1 / √(v + ε)", null, rootOf(u, now)]);
      return u.momentum ? [single([`−${general(u.momentum, 6)}`, null, -u.momentum], ["u", p, old.momentum]), own] : [own];
    },
  },
  sgd_update: {
    after: (u, m) => "momentum" in m ? { momentum: u.momentum * m.momentum - u.learning_rate * m.g } : {},
    terms(u, p, old, now) {
      const own = single(["−α", null, -u.learning_rate], ["g", p, old.g]);
      return u.momentum ? [single([general(u.momentum, 6), null, u.momentum], [u.nesterov ? "u, after the step" : "u", p, u.nesterov ? now.momentum : old.momentum]), own] : [own];
    },
  },
};
const stepSize = u => u.learning_rate * Math.sqrt(1 - u.beta_2 ** u.t) / (1 - u.beta_1 ** u.t);
const rootOf = (u, now) => 1 / Math.sqrt(("average_gradient" in now ? Math.max(now.velocity - now.average_gradient ** 2, 0) : now.velocity) + u.epsilon);

// Every gradient as the optimiser clips it before it steps.
export function clippedGradients(net, dweights) {
  const { clip, limit } = net.update, norm = list => Math.sqrt(list.reduce((sum, g) => sum + g.reduce((so, v) => so + v * v, 0), 0));
  if (!clip) return dweights;
  const shrink = (g, n) => n > limit ? g.map(v => v * limit / n) : g, all = norm(Object.values(dweights));
  return Object.fromEntries(Object.entries(dweights).map(([name, g]) => [name, clip === "clipvalue" ? g.map(v => Math.max(-limit, Math.min(limit, v))) : shrink(g, clip === "clipnorm" ? norm([g]) : all)]));
}
const momentsAt = (weight, k, g) => ({ g, ...Object.fromEntries(Object.entries(weight.moments ?? {}).map(([slot, array]) => [slot, array[k]])) });
function decay(u, name, p, value) { return u.weight_decay ? [single(["−α · weight decay", null, -u.learning_rate * u.weight_decay], [name, p, value])] : []; }
// What the update adds to every number of a weight, as single precision leaves it.
export function steps(net, name, clipped) {
  const u = net.update, rule = RULES[u.kernel], weight = net.weights[name];
  return Float32Array.from(weight.value, (value, k) => {
    const old = momentsAt(weight, k, clipped[name][k]), step = [...decay(u, "", null, value), ...rule.terms(u, null, old, rule.after(u, old))].reduce((sum, row) => sum + row.values[0], 0);
    return Math.fround(Math.fround(value + step) - value);
  });
}
export function explainStep(net, name, k, place, raw, clipped) {
  const u = net.update, rule = RULES[u.kernel], weight = net.weights[name], value = weight.value[k], g = clipped[name][k], old = momentsAt(weight, k, g), now = rule.after(u, old), own = name.split("/").at(-1), gradient = raw[name][k];
  const found = [...decay(u, own, place, value), ...rule.terms(u, place, old, now)], step = found.reduce((sum, row) => sum + row.values[0], 0);
  const facts = [{ name: "g", value: gradient, text: "the gradient" }, ...u.clip ? [{ name: "g, clipped", value: g, text: `by ${u.clipping}` }] : [], { name: "α", value: u.learning_rate, text: "the learning rate" }, ...rule.facts?.(u) ?? [],
    ...Object.keys(weight.moments ?? {}).map(slot => ({ name: slot, value: now[slot], text: `was ${general(old[slot])}` })), { name: "θ", value, text: `becomes ${general(Math.fround(value + step), 6)}` }];
  const moved = gradient > 0 ? ["rises", "down"] : ["falls", "up"];
  return {
    found, facts, sentences: [`${u.optimizer}'s step ${u.t}, for one number of ${name}.`,
      gradient ? `The gradient ${general(gradient)} says that the loss ${moved[0]} with it, so it is moved ${moved[1]}; how far, the optimiser says.` : "The gradient is zero: what moves it is left from earlier steps, if anything is."],
  };
}
