// Sums of products with weights: dense layers and convolutions (tinyconv/trace/linear.py).
import { geometry, under, over } from "./windows.js";
import { rows, single, counted } from "./terms.js";

// The numbers that meet at a place of the small grid, and at one of the large: [place of the other, place of the weight, why not].
function ofSmall(node, place) {
  const g = geometry(node), last = place.at(-1), before = place.slice(0, -1);
  if (node.op === "Dense") return Array.from({ length: g.C }, (_, c) => [[...before, c], [c, last], ""]);
  const [c0, c1, f] = g.depthwise ? [Math.floor(last / g.last), Math.floor(last / g.last) + 1, last % g.last] : [0, g.C, last], found = [];
  for (const [k, l, u, v, why] of under(g, place[1], place[2])) for (let c = c0; c < c1; c++) found.push([[0, u, v, c], [k, l, c, f], why]);
  return found;
}
function ofLarge(node, place) {
  const g = geometry(node), c = place.at(-1), before = place.slice(0, -1);
  if (node.op === "Dense") return Array.from({ length: g.last }, (_, f) => [[...before, f], [c, f], ""]);
  const found = [];
  for (const [k, l, i, j, why] of over(g, place[1], place[2])) for (let f = 0; f < g.last; f++) found.push([[0, i, j, g.depthwise ? c * g.last + f : f], [k, l, c, f], why]);
  return found;
}
// Products of numbers with the weights that they meet.
function met(step, node, pairs, numbers, why) {
  const weights = step.weightColumn(node, "kernel", pairs.map(p => p[1]));
  return rows([numbers, weights], row => pairs[row][2] || why(row) || (weights.values[row] ? "" : "the weight is 0"));
}
const ranges = places => ["row", "column", "channel"].map((name, axis) => { const all = places.map(p => p[axis + 1]), a = all.reduce((m, v) => Math.min(m, v)), b = all.reduce((m, v) => Math.max(m, v)); return a === b ? `${name} ${a}` : `${name}s ${a} to ${b}`; }).join(", ");
const reach = (begin, pairs) => { const meet = pairs.filter(p => !p[2]); return meet.length ? `${begin} ${ranges(meet.map(p => p[0]))}.` : ""; };

export const linear = {
  output(step, node, place) {
    const pairs = geometry(node).transposed ? ofLarge(node, place) : ofSmall(node, place), x = step.xColumn(node, 0, pairs.map(p => p[0]));
    const found = [met(step, node, pairs, x, row => step.whyX(node, 0, x, row))];
    if (node.bias) found.push(single([node.names?.bias ?? "bias", [place.at(-1)], step.weight(node, "bias")[place.at(-1)]]));
    return { found, sentences: node.op === "Dense" ? denseForward(node, place, pairs) : forward(node, place, pairs) };
  },
  dinput(step, node, k, place) {
    const pairs = geometry(node).transposed ? ofSmall(node, place) : ofLarge(node, place), dout = step.doutColumn(node, pairs.map(p => p[0]));
    return { found: [met(step, node, pairs, dout, row => step.whyDout(node, dout, row))], sentences: node.op === "Dense" ? denseBackward(node, place) : backward(place, pairs) };
  },
};
const denseForward = (node, place, pairs) => [
  `Unit ${place.at(-1)} of sample ${place[0]} is the sum of ${counted(pairs.length, "product")}${node.bias ? " and a bias" : ""}.`,
  `Each of the ${counted(node.x.at(-1), "number")} of the sample is multiplied by the weight that leads from it to this unit.`,
];
const denseBackward = (node, place) => [
  `Number ${place.at(-1)} of sample ${place[0]} counts in all ${counted(node.shape.at(-1), "unit")}.`,
  "Each unit's gradient comes back over the weight that the number went out by.",
];
function forward(node, place, pairs) {
  const none = pairs.filter(p => p[2]).length, [k, l] = node.size;
  return [
    `Map ${place[3]} of image ${place[0]}, row ${place[1]}, column ${place[2]}.`,
    reach(`It is computed from ${node.takes[0]}`, pairs),
    `That is ${counted(pairs.length, "product")} with a filter of ${k} × ${l}${node.bias ? " and a bias" : ""}${none ? `; ${none} of them meet no number` : ""}.`,
  ];
}
const backward = (place, pairs) => [
  `Row ${place[1]}, column ${place[2]} of channel ${place[3]} in image ${place[0]}.`,
  reach("It took part in the outputs at", pairs) || "No window has it.",
  "Each of these outputs sends its gradient back over the weight by which it saw this number.",
];
