// Train, in a page that is one file: how the model was trained, if that is known. Nothing can be trained here.
import { S } from "./state.js";
import { chart } from "./chart.js";
import { el } from "./net.js";
import { emptied } from "./sheet.js";
import { esc, num, short } from "./numbers.js";

const COLOURS = ["var(--ink)", "var(--accent)", "var(--pos)", "var(--neg)"];
export const asks = () => ({});
export const enter = () => {}, leave = () => {}, key = () => {}, drawBar = undefined, drawDock = undefined;
export const titles = () => ({ above: "what each layer puts out", below: ["Filters", "as they are in this file", 1] });

// A chart for each kind of number: a name, and the same on data that was held back.
export function drawInspector() {
  const panel = emptied(), history = S.model.history, names = Object.keys(history ?? {}).filter(name => !name.startsWith("val_"));
  panel.append(el("section", "top", `<h1>How it was trained</h1><p>${names.length ? `${history[names[0]].length} epochs, as the model remembers them.` : "The model remembers no training: it was loaded from a file, or never trained."}</p><p class="muted">This page is one file and has no program behind it, so nothing is trained here. To watch the model learn: tinyconv explore, and its tab Train.</p>`));
  for (const name of names) panel.append(plot(name, history));
}
function plot(name, history) {
  const w = Math.max(200, Math.min(330, innerWidth - 150)), h = 120, series = [name, `val_${name}`].filter(n => history[n]).map((n, k) => ({ label: k ? "held back" : "training", stroke: COLOURS[k], dots: true, points: history[n].map((v, e) => [e, v]) }));
  const all = series.flatMap(s => s.points.map(p => p[1])).filter(Number.isFinite), low = Math.min(...all), high = Math.max(...all), y0 = low, y1 = high > low ? high : low + 1, last = history[name].length;
  const box = el("section", "part chart", `<h2>${esc(name)}<span>${series.map(s => `${s.label} ${num(s.points.at(-1)[1])}`).join(", ")}</span></h2><svg width="${w + 70}" height="${h + 24}" role="img" aria-label="${esc(name)} of ${last} epochs, at the end ${num(history[name].at(-1))}"><g transform="translate(44 8)">${chart(w - 44, h, series, { x1: last - 1, y0, y1, ticks: [y0, (y0 + y1) / 2, y1], say: short })}</g></svg>`);
  return box;
}
