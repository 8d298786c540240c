// The bar over the network: the stops of one step, and what happens at this one.
import { S, $, column, stops } from "./state.js";
import { esc, counted, whole } from "./numbers.js";

const NAMES = { forward: "Forward", loss: "Loss", backward: "Backward", update: "Update" };
const size = c => c.shape.reduce((a, b) => a * b, 1);
const before = c => column(c.reads[0]);
const maps = c => before(c).input ? "the picture" : `the ${before(c).shape.at(-1)} maps before it`;
const window = c => c.links[0]?.find(l => l.kind === "window")?.size.join(" × ");
const after = c => ({ relu: " ReLU zeroes what is negative.", softmax: ` Softmax turns the ${c.shape.at(-1)} scores into probabilities.` })[c.activation] ?? (c.activation && c.activation !== "linear" ? ` ${c.activation} bends the result.` : "");

const FORWARD = {
  Conv2D: c => `Each of ${c.shape[2]} filters slides over ${maps(c)}, multiplies, adds up, adds its bias.${after(c)}`,
  DepthwiseConv2D: c => `Each map has a filter of its own, which slides over it, multiplies and adds up.${after(c)}`,
  Conv2DTranspose: c => `Each number lays its filters down, times itself; where they overlap, they add up.${after(c)}`,
  MaxPooling2D: c => `Of every ${window(c)} square only the largest number goes on.`,
  AveragePooling2D: c => `Of every ${window(c)} square the mean goes on.`,
  GlobalAveragePooling2D: () => "Of every map only its mean goes on.",
  Flatten: c => `The same ${whole(size(c))} numbers in one row: place by place, ${before(c).shape.length === 3 ? counted(before(c).shape[2], "map") : "row"} each.`,
  Dropout: c => c.rate && S.look?.loss && !S.look.own ? `A random ${c.rate === 0.5 ? "half" : `${Math.round(c.rate * 100)} %`} is set to zero and the rest multiplied by ${+(1 / (1 - c.rate)).toFixed(2)}, so that nothing relies on one of them alone.` : "In use nothing is dropped.",
  Dense: c => `Each of ${counted(c.shape.at(-1), "unit")} weighs all ${whole(before(c).shape.at(-1) ?? 1)} numbers.${after(c)}`,
  BatchNormalization: () => "Each channel is shifted and scaled to mean 0 and deviation 1, then to a mean and a deviation that are learned.",
  LayerNormalization: () => "Each sample is shifted and scaled to mean 0 and deviation 1, then to a mean and a deviation that are learned.",
  Add: c => `${c.reads.map(r => column(r).name).join(" and ")} meet: number by number they are added.`,
  Concatenate: c => `${c.reads.map(r => column(r).name).join(" and ")} lie one behind the other from here on.`,
};
const BACKWARD = {
  Conv2D: () => "Every number it read asks: which outputs used me, and how much does the loss want each of them to change?",
  MaxPooling2D: () => "The gradient goes to the one number that won each square; the others get nothing.",
  AveragePooling2D: () => "Every number of a square gets an equal share of its gradient.",
  Flatten: c => `The same gradients, put back ${before(c).shape.length === 3 ? `into ${counted(before(c).shape[2], "map")}` : "where they came from"}.`,
  Dropout: () => "What was dropped gets nothing; the rest is multiplied as it was forward.",
  Dense: c => `From the gradient of its ${counted(c.shape.at(-1), "unit")} back to the ${whole(before(c).shape.at(-1) ?? 1)} numbers that they weighed.`,
  BatchNormalization: () => "A number moves itself, the mean and the deviation of its channel: its gradient has three parts.",
  Add: () => "A sum hands the same gradient to everything that it adds.",
};
export function sentence([kind, n]) {
  const c = column(n);
  if (kind === "loss") return ["Loss.", S.look?.loss?.kind?.includes("cross") ? "Minus the logarithm of the probability of the truth: near 0 if sure and right, large if sure and wrong." : "How far the answer is from what it should be."];
  if (kind === "update") return ["Update.", `${S.model.optimizer ?? "The optimiser"} moves every weight a little against its gradient.`];
  const table = kind === "forward" ? FORWARD : BACKWARD, what = table[c.kind] ?? (kind === "forward" ? d => after(d).trim() || "Each number becomes another." : () => "The gradient of what it put out becomes the gradient of what it read.");
  return [`${c.name}, ${kind}.`, what(c)];
}
const arrow = d => `<svg width="14" height="12" aria-hidden="true"><path d="${d}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>`;

export function drawBar(go) {
  const bar = $("#bar"), all = stops(), [kind, n] = all[S.stop], groups = [...new Set(all.map(s => s[0]))], many = all.length > 24;
  let k = 0;
  const stages = groups.map(g => `<div class="stage ${g === kind ? "now" : ""} ${many ? "dense" : ""}"><span class="name">${NAMES[g]}</span><div class="dots">${all.filter(s => s[0] === g).map(s => {
    const at = k++, name = g === "loss" || g === "update" ? g : `${column(s[1]).name}, ${g}`;
    return `<button data-n="${at}" data-key="stop${at}" tabindex="${at === S.stop ? 0 : -1}" class="${at < S.stop ? "past" : at === S.stop ? "now" : ""}" ${at === S.stop ? 'aria-current="step"' : ""} aria-label="${esc(name)}" title="${esc(name)}"></button>`;
  }).join("")}</div></div>`).join("");
  const inGroup = all.filter(s => s[0] === kind), nth = all.slice(0, S.stop + 1).filter(s => s[0] === kind).length;
  const segments = groups.map(g => { const of = all.filter(s => s[0] === g).length, got = all.slice(0, S.stop + 1).filter(s => s[0] === g).length; return `<i style="flex:${of}"><b style="width:${got / of * 100}%"></b></i>`; }).join("");
  const [title, text] = sentence(all[S.stop]);
  bar.innerHTML = `<button class="step" data-key="back" aria-label="step back" title="step back: ←">${arrow("M13 6H2M6.5 1.2 1.7 6l4.8 4.8")}</button><div class="stages">${stages}</div>`
    + `<div class="mini"><div><b>${NAMES[kind]}</b><span class="muted">${kind === "loss" || kind === "update" ? "" : `${esc(column(n).name)} · ${nth} of ${inGroup.length}`}</span></div><div class="segments">${segments}</div></div>`
    + `<button class="step" data-key="on" aria-label="step on" title="step on: →">${arrow("M1 6h11M7.5 1.2 12.3 6l-4.8 4.8")}</button><p class="say"><b>${esc(title)}</b> ${esc(text)}</p>`;
  bar.querySelectorAll(".dots button").forEach(b => { b.onclick = () => go(+b.dataset.n); });
  const [back, on] = bar.querySelectorAll(".step");
  back.disabled = S.stop === 0; on.disabled = S.stop === all.length - 1;
  back.onclick = () => go(S.stop - 1); on.onclick = () => go(S.stop + 1);
}
