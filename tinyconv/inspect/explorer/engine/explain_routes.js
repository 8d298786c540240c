// Ops without weights that hand numbers on, times known factors (tinyconv/trace/routes.py, pools.py, merges.py).
import { geometry, under, over, size } from "./windows.js";
import { winners, members, placed, source, inward, chosen } from "./ops.js";
import { column, rows, single, counted, listed, general } from "./terms.js";

// A way: [place, factor, why the factor is zero].
const way = (place, factor = 1, why = "") => [place, factor, why];
const flat = (shape, place) => place.reduce((at, i, axis) => at * shape[axis] + i, 0);
const unflat = (shape, at) => [...shape].reverse().map(n => { const i = at % n; at = Math.floor(at / n); return i; }).reverse();
const placeOf = (shape, at) => [0, ...unflat(shape, at)];
const together = (numbers, ways, factor, why) => rows(factor ? [numbers, column(factor, ways.map(w => w[1]))] : [numbers], row => ways[row][2] || why(row));

const long = (node, place) => place.length === 4 ? place : [place[0], 0, 0, place.at(-1)];
const short = (node, place) => node.shape.length === 3 ? place : [place[0], place[3]];
const pixels = (node, [n, i, j, c]) => under(geometry(node), i, j).filter(t => !t[4]).map(([, , u, v]) => [n, u, v, c]);
const windows = (node, [n, u, v, c]) => over(geometry(node), u, v).filter(t => !t[4]).map(([, , i, j]) => [n, i, j, c]);
function winner(step, node, window) {
  const g = geometry(node), won = step.cached(node, "winners", () => winners(node, step.xs(node)[0]));
  return placeOf(node.x, won[(window[1] * g.small[1] + window[2]) * g.C + window[3]]);
}
const lostTo = p => `lost to row ${p[1]}, column ${p[2]}`;

const maxPool = {
  factor: "won",
  sources(step, node, place) {
    const window = long(node, place), won = winner(step, node, window).join();
    return [[0, pixels(node, window).map(p => p.join() === won ? way(p) : way(p, 0, lostTo(winner(step, node, window))))]];
  },
  targets: (step, node, k, place) => windows(node, place).map(w => { const won = winner(step, node, w); return won.join() === place.join() ? way(short(node, w)) : way(short(node, w), 0, lostTo(won)); }),
  say(step, node, place, back, ways) {
    const real = ways.filter(w => w[1]);
    if (!back) return [`The largest of ${counted(ways.length, "number")} in the window, of channel ${real[0][0][3]} alone.`, `Row ${real[0][0][1]}, column ${real[0][0][2]} won; the others do not count.`];
    const x = `Row ${place[1]}, column ${place[2]} lies in ${counted(ways.length, "window")}`;
    if (real.length) return [`${x} and won ${real.length} of them.`, "The winner gets the window's gradient, the losers nothing."];
    return [ways.length ? `${x} and won none of them: ${[...new Set(ways.map(w => w[2]))].join("; ")}.` : `${x}.`];
  },
};
const averagePool = {
  factor: "1 / m",
  sources: (step, node, place) => { const all = pixels(node, long(node, place)); return [[0, all.map(p => way(p, 1 / all.length))]]; },
  targets: (step, node, k, place) => windows(node, place).map(w => way(short(node, w), 1 / members(node)[w[1] * geometry(node).small[1] + w[2]])),
  say: (step, node, place, back, ways) => back ? [`Row ${place[1]}, column ${place[2]} lies in ${counted(ways.length, "window")}.`, "Each hands every one of its m pixels 1/m of its gradient."]
    : [`The mean of the ${counted(ways.length, "pixel")} of the window that lie in the image.`],
};
const reshape = {
  sources: (step, node, place) => [[0, [way(placeOf(node.x, flat(node.shape, place.slice(1))))]]],
  targets: (step, node, k, place) => [way(placeOf(node.shape, flat(node.x, place.slice(1))))],
  say(step, node, place, back, [[other]]) {
    const [mine, theirs] = back ? [node.x, node.shape] : [node.shape, node.x], [at, shape] = theirs.length > mine.length ? [other.slice(1), theirs] : [place.slice(1), mine];
    const index = at.map((i, axis) => `${i} · ${size(shape.slice(axis + 1))}`).join(" + ");
    return [`Nothing is computed: the number ${back ? "went to" : "came from"} place ${listed(other.slice(1))}.`, `Counted row by row it is number ${index} = ${flat(shape, at)} of sample ${place[0]}.`];
  },
};
const dropout = {
  factor: "1 / (1 − rate)",
  sources: (step, node, place) => [[0, dropout.targets(step, node, 0, place)]],
  targets: (step, node, k, place) => { const factor = step.kept(node, flat(node.shape, place.slice(1))); return [way(place, factor, factor ? "" : "dropped")]; },
  say(step, node, place, back, [[, factor]]) {
    if (!step.training) return ["At inference nothing is dropped."];
    if (!factor) return [`The unit is dropped in this step, and so is its ${back ? "gradient" : "number"}.`];
    return [`The unit is kept, and ${back ? "its gradient" : "it"} is multiplied by 1 / (1 − ${general(node.rate, 6)}).`, "So its mean over many steps is what it would be without dropout."];
  },
  facts: (step, node, place) => step.training ? [
    { name: "rate", value: node.rate, text: "of the units are dropped" },
    { name: "step", value: step.net.step, text: `before this one; drawn for sample ${place[0]} and each unit by itself` },
    { name: "unit", value: flat(node.shape, place.slice(1)), text: "of the sample" }, { name: "seed", value: step.net.seed, text: "of the model" },
  ] : [],
};
const rescale = {
  factor: "scale",
  sources: (step, node, place) => [[0, [way(place, node.scale)]]],
  targets: (step, node, k, place) => [way(place, node.scale)],
  extra: node => node.shift ? [single(["shift", null, node.shift])] : [],
  say: (step, node, place, back) => [back ? "The derivative of a product with a constant is the constant." : "Times a constant."],
};
const pad = {
  sources(step, node, place) {
    const u = place[1] - node.corner[0], v = place[2] - node.corner[1];
    return u >= 0 && v >= 0 && u < node.x[0] && v < node.x[1] ? [[0, [way([place[0], u, v, place[3]])]]] : [];
  },
  targets: (step, node, k, place) => [way([place[0], place[1] + node.corner[0], place[2] + node.corner[1], place[3]])],
  say: (step, node, place, back, ways) => [!ways.length ? "A zero of the border that was put around the image." : back ? "A copy of the pixel, with the same gradient." : "A copy of the pixel."],
};
const upsample = {
  sources: (step, node, place) => [[0, [way(placeOf(node.x, source(node, flat(node.shape, place.slice(1)))))]]],
  targets(step, node, k, [n, u, v, c]) {
    const R = node.shape[0] / node.x[0], W = node.shape[1] / node.x[1], found = [];
    for (let i = u * R; i < u * R + R; i++) for (let j = v * W; j < v * W + W; j++) found.push(way([n, i, j, c]));
    return found;
  },
  say: (step, node, place, back, ways) => back ? [`The pixel was repeated ${counted(ways.length, "time")}, and gets the sum of their gradients.`]
    : [`A copy: every pixel is repeated in a block of ${node.shape[0] / node.x[0]} × ${node.shape[1] / node.x[1]}.`],
};
const concatenate = {
  sources(step, node, place) {
    let begin = 0;
    for (const [k, shape] of node.shapes.entries()) {
      const i = place[node.axis + 1] - begin;
      if (i < shape[node.axis]) return [[k, [way([...place.slice(0, node.axis + 1), i, ...place.slice(node.axis + 2)])]]];
      begin += shape[node.axis];
    }
  },
  targets: (step, node, k, place) => [way(placeOf(node.shape, placed(node, k)[flat(node.shapes[k], place.slice(1))]))],
  say: (step, node, place, back, [[other]]) => [back ? `It was copied to place ${listed(other)}, and gets the gradient from there.` : `A copy of place ${listed(other)}.`],
};
const chooses = node => !["add", "subtract", "multiply"].includes(node.kind), isMean = node => node.scale !== 1;
const factorOf = (step, node, k, place) => node.kind === "subtract" ? (k ? -1 : 1) : chooses(node) ? +(chosen(node, step.xs(node), flat(node.shape, place.slice(1))) === k) : node.scale;
// All places of the output that a number of an input counts for.
function outward(node, k, place) {
  const at = flat(node.shapes[k], place.slice(1)), found = [];
  for (let o = 0; o < size(node.shape); o++) if (inward(node.shapes[k], o, node.shape) === at) found.push(placeOf(node.shape, o));
  return found;
}
const into = (node, k, place) => placeOf(node.shapes[k], inward(node.shapes[k], flat(node.shape, place.slice(1)), node.shape));
const joined = {
  named: node => chooses(node) ? "chosen" : isMean(node) ? "1 / n" : node.kind === "subtract" ? "sign" : "",
  sources: (step, node, place) => node.reads.map((_, k) => { const f = factorOf(step, node, k, place); return [k, [way(into(node, k, place), f, f ? "" : "not chosen")]]; }),
  targets: (step, node, k, place) => outward(node, k, place).map(o => { const f = factorOf(step, node, k, o); return way(o, f, f ? "" : "another input was chosen"); }),
  say(step, node, place, back, ways) {
    if (chooses(node)) return [back ? "The input that was chosen gets the gradient, the others nothing." : `Of ${node.reads.length} inputs, number ${chosen(node, step.xs(node), flat(node.shape, place.slice(1)))} was chosen.`];
    if (node.kind === "subtract") return [back ? "Each gets the gradient, the second with the other sign." : "The first minus the second."];
    const what = joined.named(node) ? "mean" : "sum";
    if (!back) return [`The ${what} of ${node.reads.length} inputs at the same place.`];
    return [`A ${what} hands its gradient to every summand${what === "mean" ? `, here times ${general(node.scale)}.` : "."}`, ways.length > 1 ? `The number counts at ${ways.length} places, and gets the sum of their gradients.` : ""];
  },
};
const ROUTES = { MaxPool2D: maxPool, AveragePool2D: averagePool, Reshape: reshape, Dropout: dropout, Rescale: rescale, Pad2D: pad, Upsample2D: upsample, Concatenate: concatenate, Merge: joined };

export const route = {
  output(step, node, place) {
    const r = ROUTES[node.op], sources = r.sources(step, node, place), factor = r.named?.(node) ?? r.factor;
    const found = sources.map(([k, ways]) => { const x = step.xColumn(node, k, ways.map(w => w[0])); return together(x, ways, factor, row => step.whyX(node, k, x, row)); });
    return { found: [...found, ...r.extra?.(node) ?? []], sentences: r.say(step, node, place, false, sources[0]?.[1] ?? []), facts: r.facts?.(step, node, place) };
  },
  dinput(step, node, k, place) {
    const r = ROUTES[node.op], ways = r.targets(step, node, k, place), dout = step.doutColumn(node, ways.map(w => w[0]));
    return { found: [together(dout, ways, r.named?.(node) ?? r.factor, row => step.whyDout(node, dout, row))], sentences: r.say(step, node, place, true, ways) };
  },
};
const factors = (step, node, places, without) => node.reads.flatMap((_, k) => k === without ? [] : [step.xColumn(node, k, places.map(p => into(node, k, p)))]);
export const multiplied = {
  output: (step, node, place) => ({ found: [rows(factors(step, node, [place], -1))], sentences: [`The product of ${node.reads.length} inputs at the same place.`] }),
  dinput(step, node, k, place) {
    const at = outward(node, k, place), dout = step.doutColumn(node, at);
    return { found: [rows([dout, ...factors(step, node, at, k)], row => step.whyDout(node, dout, row))], sentences: ["By the product rule: the gradient, times what the number was multiplied by."] };
  },
};
