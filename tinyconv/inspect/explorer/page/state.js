// What is shown. The pinned number is the address: the URL's hash holds it.
export const S = {
  mode: "look", stop: 0, focus: 1, map: 0, slice: null, pin: null, hover: null, pages: {}, turned: new Set(), band: null, tiles: false,
  model: null, look: null, stale: false, sample: { index: 0 }, slide: { across: 0, down: 0, turn: 0, blur: 0 }, open: null,
  explanation: null, measured: null, drawing: false, mine: [], list: "worst", from: 0, listed: null, sheet: false, pictures: false,
};
export const $ = selector => document.querySelector(selector);
export const phone = () => innerWidth <= 720;
export const columns = () => S.model.columns;
export const column = n => S.model.columns[n];
export const numberOf = name => S.model.columns.findIndex(c => c.name === name);
export const shown = () => S.hover ?? S.pin;
export const sameNumber = (a, b) => !!a && !!b && a.band === b.band && a.col === b.col && a.place.join() === b.place.join();

const BANDS = { v: "value", g: "gradient" };
export function readHash() {
  const q = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (["look", "train", "break"].includes(q.mode)) S.mode = q.mode;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = ["light", "dark"].includes(q.theme) ? q.theme : dark ? "dark" : "light";
  S.themed = !!q.theme;
  const number = name => q[name] !== undefined && /^\d{1,9}$/.test(q[name]) ? +q[name] : null;
  S.stop = Math.min(number("stop") ?? 0, stops().length - 1);
  settle();
  const focus = numberOf(q.focus ?? "");
  if (focus >= 0) S.focus = focus;
  S.map = number("map") ?? 0;
  if (number("sample") !== null) S.sample = { index: Math.min(number("sample"), Math.max(0, S.model.samples - 1)) };
  const [band, name, ...place] = (q.pin ?? "").split(","), col = numberOf(name ?? "");
  const shape = col < 0 ? null : column(col).shape;
  if (shape && (band === "v" || band === "g" && S.model.learns) && place.length === shape.length && place.every((p, k) => /^\d{1,9}$/.test(p) && +p < shape[k])) S.pin = { band: BANDS[band], col, place: place.map(Number), kept: true };
}
export function writeHash() {
  const q = [`mode=${S.mode}`, `stop=${S.stop}`, `focus=${encodeURIComponent(column(S.focus).name)}`, `map=${S.map}`];
  if (S.sample.index !== undefined) q.push(`sample=${S.sample.index}`);
  if (S.pin && "vg".includes(S.pin.band[0])) q.push(`pin=${[S.pin.band[0], encodeURIComponent(column(S.pin.col).name), ...S.pin.place].join(",")}`);
  if (S.themed) q.push(`theme=${document.documentElement.dataset.theme}`);
  history.replaceState(null, "", "#" + q.join("&"));
}
// The stops of one step of training: forward through every layer, the loss, back, and the update.
export function stops() {
  const layers = columns().map((c, n) => n).filter(n => !column(n).input), forward = layers.map(n => ["forward", n]);
  if (!S.model.learns) return forward;
  const last = layers.at(-1);
  return [...forward, ["loss", last], ...forward.map(([, n]) => ["backward", n]).reverse(), ["update", last]];
}
// What the stop is about: where the eye should be.
export function settle() {
  const [kind, n] = stops()[S.stop];
  if (kind === "backward") S.focus = column(n).reads[0] ?? n;
  else if (kind !== "update") S.focus = n;
  else if (!Object.keys(column(S.focus).weights).length) S.focus = columns().findIndex(c => Object.keys(c.weights).length);
  if (S.focus < 0) S.focus = 0;
}
