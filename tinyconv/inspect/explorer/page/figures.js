// Pictures beside a sum: the curve of an activation with the number on it; the numbers that a normalisation looks at.
import { el } from "./net.js";
import { view } from "./views.js";
import { column } from "./state.js";
import { CURVES } from "./curves.js";
import { num, esc, short } from "./numbers.js";

const W = 200, H = 84, BINS = 24;
const svg = (name, inside, label) => { const box = el("div", "field", `<svg width="${W}" height="${H + 16}" role="img" aria-label="${esc(label)}">${inside}</svg><p class="small muted">${esc(name)}</p>`); box.classList.add("figure-of"); return box; };
const line = (x0, y0, x1, y1) => `<line x1="${x0}" y1="${y0}" x2="${x1}" y2="${y1}" stroke="var(--line2)"/>`;
const dot = (x, y) => `<circle cx="${x}" cy="${y}" r="4" fill="var(--accent)" stroke="var(--page)" stroke-width="1.5"/>`;

// Of a number that an activation has made: x is what it has made it of.
export function figureOf(p, e) {
  const c = column(p.col);
  if (p.band !== "value" || !Number.isFinite(e.value)) return null;
  if (c.kind === "BatchNormalization") return histogram(p, c, e);
  return CURVES[c.activation] && e.then.length ? curve(c.activation, e) : null;
}
function curve(kind, e) {
  const [f] = CURVES[kind], options = e.facts.filter(fact => ["α", "m", "t"].includes(fact.name)).map(fact => fact.value), x = e.then.length > 1 ? e.then.at(-2).value : e.sum;
  const reach = Math.max(3, Math.abs(x) * 1.25), xs = Array.from({ length: 101 }, (_, k) => -reach + 2 * reach * k / 100), ys = xs.map(v => f(v, ...options)), low = Math.min(0, ...ys), high = Math.max(0.1, ...ys);
  const sx = v => (v + reach) / (2 * reach) * W, sy = v => 4 + (high - v) / (high - low) * (H - 8), path = xs.map((v, k) => `${k ? "L" : "M"}${sx(v).toFixed(1)} ${sy(ys[k]).toFixed(1)}`).join("");
  return svg(`${kind}: ${num(x)} becomes ${num(e.value)}`, line(0, sy(0), W, sy(0)) + line(sx(0), 0, sx(0), H) + `<path d="${path}" fill="none" stroke="var(--ink)" stroke-width="1.75"/>` + dot(sx(x), sy(e.value)), `${kind}, with the point ${num(x)}, ${num(e.value)} on it`);
}
// The channel's numbers in this picture, the one that is explained, and mean and deviation of all that count.
function histogram(p, c, e) {
  const v = view(c.reads[0], "value"), at = v.lay.at(p.place), fact = name => e.facts.find(f => f.name === name)?.value ?? 0, mean = fact("mean"), deviation = fact("deviation"), all = [];
  for (let i = 0; i < v.lay.H; i++) for (let j = 0; j < v.lay.W; j++) { const x = v.value(at.m, i, j); if (Number.isFinite(x)) all.push(x); }
  const x = v.value(at.m, at.i, at.j), low = Math.min(mean - 2 * deviation, ...all), high = Math.max(mean + 2 * deviation, ...all), counts = Array(BINS).fill(0), bin = u => Math.min(BINS - 1, Math.floor((u - low) / (high - low || 1) * BINS));
  for (const u of all) counts[bin(u)]++;
  const most = Math.max(...counts), sx = u => (u - low) / (high - low || 1) * W, bars = counts.map((n, k) => `<rect x="${k * W / BINS}" y="${H - n / most * (H - 10)}" width="${W / BINS - 1}" height="${n / most * (H - 10)}" fill="var(--${k === bin(x) ? "accent" : "line2"})"/>`).join("");
  const marks = `<rect x="${sx(mean - deviation)}" y="${H + 2}" width="${Math.max(1, sx(mean + deviation) - sx(mean - deviation))}" height="3" fill="var(--muted)"/><line x1="${sx(mean)}" x2="${sx(mean)}" y1="${H - 6}" y2="${H + 8}" stroke="var(--ink)" stroke-width="1.5"/>`;
  return svg(`${short(x)} among the ${all.length} numbers of channel ${at.m} in this picture; below, mean and deviation`, bars + marks, `histogram of channel ${at.m}, mean ${num(mean)}, deviation ${num(deviation)}, with ${num(x)} in it`);
}
