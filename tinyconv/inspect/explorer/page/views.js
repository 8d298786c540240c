// What there is to draw of a layer: its values, and what lies below them, as maps whose numbers are looked up here.
import { S, column, columns, stops } from "./state.js";
import { layout, matrixLayout } from "./arrays.js";
import { ink, linear, rooted } from "./colours.js";
import { binary } from "./talk.js";

let redraw = () => {};
export const viewHandlers = act => { redraw = act.redraw; };
export function kindOf(n) {
  const c = column(n), r = c.shape.length;
  if (c.input && (r === 2 || r === 3 && [1, 3].includes(c.shape[2]))) return "picture";
  if (r >= 2) return "maps";
  return (c.shape[0] ?? 1) <= 12 || isAnswer(n) ? "bars" : "vector";
}
export const isAnswer = n => n === columns().length - 1 && S.model.question === "classes";
export const weightOf = n => { const names = Object.keys(column(n).weights); return names.sort((a, b) => column(n).weights[b].length - column(n).weights[a].length)[0]; };
// The band that lies below: gradients, steps at the update, filters while training.
export function lower(n) {
  const name = weightOf(n);
  if (S.mode === "train") return name ? `weight/${name}` : null;
  if (stops()[S.stop][0] === "update") return name ? `step/${name}` : null;
  return "gradient";
}
export function view(n, band) {
  const entry = S.look?.columns[n]?.[band];
  const shape = entry?.shape ?? (band.includes("/") ? column(n).weights[band.split("/")[1]] : column(n).shape);
  if (!shape) return null;
  const weight = band.includes("/"), lay = weight && shape.length === 2 ? matrixLayout(shape) : layout(shape, sliceOf(n, band));
  const most = entry ? Math.max(Math.abs(entry.min), Math.abs(entry.max)) : 1;
  const colour = v => (band === "value" ? ink : weight ? linear : rooted)(v, most);
  return { n, band, entry, shape, lay, most, colour, value: (m, i, j) => number(n, band, entry, lay, m, i, j), done: !!entry };
}
export const sliceOf = (n, band) => band.includes("/") ? S.slice ?? 0 : 0;
function number(n, band, entry, lay, m, i, j) {
  const at = lay.index(m, i, j);
  if (at < 0 || !entry) return null;
  if (entry.at !== undefined) return S.look.data[entry.at + at];
  const map = fetched(n, entry, m);
  return map ? map[i * lay.W + j] : null;
}
// Of an array too large to come at once, a map when it is first looked at.
function fetched(n, entry, m) {
  const cache = S.look.maps ??= new Map(), key = `${n}|${entry.what}|${m}`;
  if (!cache.has(key)) {
    cache.set(key, null);
    const look = S.look;
    binary("maps", { look: look.look, layer: column(n).name, what: entry.what, from: m, count: 1 }).then(map => { cache.set(key, map); if (S.look === look) redraw(); }, () => {});
  }
  return cache.get(key);
}
export const dropped = (n, v, m, i, j) => column(n).rate !== null && v === 0 && S.look?.loss && view(column(n).reads[0], "value").value(m, i, j) !== 0;

