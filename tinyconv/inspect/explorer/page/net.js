// The network from left to right: a column for each layer, its values above, their gradients exactly below.
import { S, $, phone, columns, column, stops } from "./state.js";
import { linear, css, over, paint } from "./colours.js";
import { esc, short, num, cell, percent, range, counted, whole } from "./numbers.js";
import { view, kindOf, isAnswer, lower, sliceOf, dropped } from "./views.js";
import { MODES } from "./modes.js";
import { look as loupe, away } from "./loupe.js";
import { SLOT, arrange, width, perPage, put, card, colOf, headOf } from "./lanes.js";

const MAP = 56, VECTOR = 50, BARS = 112, ROWS = 10, GAP = 18, PRINT = 36, TILE = 24;
export const spots = new Map();                       // by column, band, map and whether enlarged: where it lies
let N = 4, act = {};
export const handlers = given => { act = given; };
export const el = (tag, cls, html) => { const e = document.createElement(tag); if (cls) e.className = cls; if (html != null) e.innerHTML = html; return e; };

// ---------------------------------------------------------------- sizes
export function measure() {
  const net = $("#net"), h = net.clientHeight, one = phone() || h < 560 || !S.model.learns && S.mode !== "train";
  document.body.classList.toggle("one", one);
  N = Math.max(2, Math.min(8, Math.floor(phone() ? (h - 110) / SLOT : one ? (h - 150) / SLOT : (h - 212) / (2 * SLOT))));
  if (phone()) N = Math.max(2, Math.min(N, 4));
  const big = innerWidth > 2560 ? 1.5 : 1;
  net.style.setProperty("--band", N * SLOT + "px");
  arrange(N);
  net.style.setProperty("--big", big);
}
function smallSize(lay) {
  const s = Math.floor(MAP / Math.max(lay.H, lay.W)), longest = Math.max(lay.H, lay.W);
  if (s * longest >= 40) return { w: lay.W * s, h: lay.H * s };
  return { w: Math.max(2, Math.round(lay.W * 55 / longest)), h: Math.max(2, Math.round(lay.H * 55 / longest)), smooth: longest > 55 };
}
function pictureSize(lay) {
  const most = phone() ? 84 : Math.min(N > 4 && innerWidth >= 1700 ? 200 : 145, perPage(S.model.lead) * SLOT - 84), s = Math.floor(most / Math.max(lay.H, lay.W));
  return s >= 1 ? { w: lay.W * s, h: lay.H * s } : { w: Math.round(lay.W * most / Math.max(lay.H, lay.W)), h: Math.round(lay.H * most / Math.max(lay.H, lay.W)), smooth: true };
}
const widthOf = n => ({ picture: () => pictureSize(view(n, "value").lay).w, maps: () => smallSize(view(n, "value").lay).w, vector: () => VECTOR, bars: () => BARS })[kindOf(n)]();
function lensSize(lay) {
  const widths = [];
  columns().forEach((c, n) => { widths[colOf(n)] = Math.max(widths[colOf(n)] ?? 0, widthOf(n) + GAP); });
  const others = widths.reduce((a, b) => a + b, 0), room = $("#net").clientWidth - 48 - others - 20;
  const avail = room >= 200 ? room : Math.min(260, (phone() ? innerWidth : $("#net").clientWidth) - 150), band = perPage() * SLOT - 8;
  const s = Math.min(Math.floor(band / lay.H), Math.floor(avail / lay.W), 60);
  return s >= 1 ? { w: lay.W * s, h: lay.H * s, s } : { w: lay.W, h: lay.H, s: 1, box: { w: Math.min(avail, lay.W), h: Math.min(band, lay.H) } };
}

// ---------------------------------------------------------------- drawing
export function drawNet() {
  const net = $("#net"), left = net.scrollLeft, grid = el("div", "grid");
  spots.clear();
  net.replaceChildren(grid);
  grid.style.gridTemplateColumns = `repeat(${width()}, max-content)`;
  const under = S.model.learns || S.mode === "train";
  titles(grid, under);
  for (const [rows, band] of [["2 / 6", "above"], ["7 / 9", "below"]]) {
    if (band === "below" && !under) continue;
    card(grid, S.focus, rows, band);
  }
  columns().forEach((c, n) => drawColumn(grid, n, under));
  net.append(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
  net.lastChild.id = "over"; net.lastChild.setAttribute("aria-hidden", "true");
  net.lastChild.style.width = grid.offsetWidth + 48 + "px";
  net.dataset.band = shownBand();
  net.scrollLeft = left;
  inSight(net);
}
export const shownBand = () => S.band ?? (S.mode === "train" ? "above" : S.pin && S.pin.band !== "value" || ["backward", "update"].includes(stops()[S.stop][0]) ? "below" : "above");
function inSight(net) {
  const head = headOf(S.focus), lens = net.querySelector(".lens");
  if (!head || net.scrollWidth <= net.clientWidth + 4) return;
  const wide = head.offsetWidth, want = phone() ? (headOf(S.focus - 1) ?? head).offsetLeft - 16 : head.offsetLeft - (net.clientWidth - wide) / 2;
  if (phone() || head.offsetLeft < net.scrollLeft || head.offsetLeft + wide > net.scrollLeft + net.clientWidth) net.scrollLeft = want;
  if (lens && phone() && lens.getBoundingClientRect().right > innerWidth) net.scrollLeft = head.offsetLeft - 16;
}
function titles(grid, under) {
  const words = MODES[S.mode].titles(stops()[S.stop][0]);
  grid.append(title(1, "above", "Values", words.above, 1));
  if (!under) return;
  const low = grid.appendChild(title(6, "below", ...words.below));
  MODES[S.mode].switches?.(low);
}
function title(row, cls, name, text, way) {
  const d = el("div", `band ${cls}`, `<h2>${name}</h2><p>${esc(text)}</p><i class="arrow ${way < 0 ? "back" : ""}" aria-hidden="true"></i>`);
  d.style.gridRow = row;
  return d;
}

function drawColumn(grid, n, under) {
  const c = column(n), focus = n === S.focus, head = put(grid, n, 2, el("div", `head ${focus ? "focus" : ""}`));
  head.dataset.n = n;
  const from = c.reads.length !== 1 || c.reads[0] === n - 1 ? "" : ` from ${c.reads.map(r => column(r).name).join(", ")}`;
  const note = MODES[S.mode].note?.(n) ?? esc(noteOf(c));
  const button = head.appendChild(el("button", "", `<b>${esc(c.name).replace(/_(?!\d)/g, "_<wbr>")}</b><span>${note}</span>`));
  button.dataset.key = `col${n}`; button.title = `${c.name}, ${c.kind}${from}`; button.setAttribute("aria-pressed", focus);
  if (c.reads.length > 1) button.title = `${c.name} joins ${c.reads.map(r => column(r).name).join(" and ")}`;
  button.onclick = () => act.focus(n);
  drawBand(grid, n, "value", 3, 4, "above");
  const band = under ? lower(n) : null;
  if (band) drawBand(grid, n, band, 7, 8, "below");
  else if (under) put(grid, n, 7, el("p", "none below", "no weights"));
  pager(grid, n);
}
function noteOf(c) {
  const size = c.shape.join("×") || "1";
  return c.shape.length > 1 && !(c.shape.length === 3 && c.shape[2] === 1) ? size : c.shape.length === 3 ? c.shape.slice(0, 2).join("×") : c.activation && c.activation !== "linear" ? `${size}, ${c.activation}` : size;
}
function drawBand(grid, n, band, row, footRow, where) {
  const box = put(grid, n, row, el("div", `cells ${where}`)), foot = put(grid, n, footRow, el("div", `foot ${where}`)), v = view(n, band);
  const stop = stops()[S.stop], pale = band === "gradient" && S.mode === "look" && (stop[0] === "forward" || stop[0] === "loss" || stop[0] === "backward" && n < (column(stop[1]).reads[0] ?? 0));
  box.classList.toggle("pale", pale); foot.classList.toggle("pale", pale);
  if (!v) return;
  const kind = band.includes("/") ? v.lay.vector && v.lay.count === 1 ? "vector" : "maps" : kindOf(n);
  ({ picture: drawPicture, maps: drawMaps, vector: drawVector, bars: drawBars })[kind](box, foot, v);
  if (kind !== "bars") box.style.minWidth = `${Math.round(rangeText(v).length * 6.2 - GAP)}px`;       // two ranges side by side keep apart
}
// One map as a canvas of its own, which can be hovered and clicked.
function drawMap(v, m, size, lens) {
  const canvas = el("canvas"), { lay } = v;
  paint(canvas, lay.H, lay.W, (i, j) => {
    const value = v.value(m, i, j);
    if (value === null) return v.entry && lay.index(m, i, j) < 0 ? null : v.colour(0);
    return v.band === "value" && dropped(v.n, value, m, i, j) ? null : v.colour(value);
  });
  canvas.style.width = size.w + "px"; canvas.style.height = size.h + "px";
  if (size.smooth) canvas.style.imageRendering = "auto";
  canvas.setAttribute("aria-hidden", "true");
  hook(canvas, v, m, lens);
  return canvas;
}
function hook(canvas, v, m, lens) {
  spots.set(`${v.n}|${v.band}|${m}|${lens ? 1 : 0}`, { el: canvas, lay: v.lay });
  const where = e => {
    const r = canvas.getBoundingClientRect(), { lay } = v, at = (p, a, s, n) => Math.max(0, Math.min(n - 1, Math.floor((p - a) / s * n)));
    return { band: v.band, col: v.n, place: v.lay.place(m, at(e.clientY, r.top, r.height, lay.H), at(e.clientX, r.left, r.width, lay.W)) };
  };
  canvas.onpointermove = e => {
    if (S.drawing || e.pointerType === "touch" && !lens) return;
    const found = where(e), at = v.lay.at(found.place);
    act.hover(found);
    if (e.pointerType === "touch") loupe(v, at.m, at.i, at.j, e);
  };
  canvas.onpointerleave = canvas.onpointercancel = () => { away(); act.hover(null); };
  canvas.onclick = e => { if (!S.drawing || v.n !== S.model.lead) act.pin(where(e), lens); };
  canvas.onpointerup = e => { if (e.pointerType === "touch" && lens) { away(); act.pin(where(e), true); } };
}
export const name = (v, m) => `${column(v.n).name}, ${v.band === "value" ? "" : v.band === "gradient" ? "gradient of " : "weights of "}map ${m}`;
const rangeText = v => !v.entry ? "" : v.band === "value" ? v.entry.min < 0 ? `${short(v.entry.min)} – ${short(v.entry.max)}` : `0 – ${short(v.most)}` : `± ${short(v.most)}`;
function scale(foot, v, w, more) {
  const canvas = el("canvas"), low = v.band === "value" ? Math.min(0, v.entry?.min ?? 0) : -v.most, high = v.band === "value" ? Math.max(0, v.entry?.max ?? 1) : v.most;
  paint(canvas, 1, 101, (i, j) => v.colour(low + (high - low) * j / 100));
  canvas.style.width = w + "px";
  const box = el("div", "scale"), first = box.appendChild(el("div"));
  const broken = v.entry?.broken ?? 0;
  first.append(canvas, broken ? el("span", "bad", `${whole(broken)} NaN`) : el("span", "", rangeText(v)));
  if (broken) foot.title = `${whole(broken)} numbers that are not finite`;
  if (more) box.append(el("span", "", more));
  foot.append(box);
}
const first = n => Math.max(0, Math.min((S.pages[n] ?? 0), Math.max(0, view(n, "value").lay.count - perPage(n))));
export const pageOf = first;

const inCell = (value, most) => most >= 0.02 || value === 0 ? cell(value) : short(value);
function lensOf(v, m) {
  const size = lensSize(v.lay), box = el("div", "lens"), inner = box.appendChild(el("div", "exact"));
  if (size.box) { box.style.cssText = `width:${size.box.w}px;height:${size.box.h}px;overflow:auto`; }
  inner.append(drawMap(v, m, size, true));
  box.tabIndex = 0; box.dataset.key = `lens${v.band}`;
  box.setAttribute("role", "grid");
  box.setAttribute("aria-label", `${name(v, m)}, values ${rangeText(v)}`);
  box.append(el("div", "unseen", `<div role="row"><span role="gridcell" id="cell-${v.band.split("/")[0]}"></span></div>`));
  box.setAttribute("aria-activedescendant", `cell-${v.band.split("/")[0]}`);
  if (size.s >= PRINT) for (let i = 0; i < v.lay.H; i++) for (let j = 0; j < v.lay.W; j++) {
    const value = v.value(m, i, j);
    if (value === null) continue;
    const e = inner.appendChild(el("span", "num", inCell(value, v.most)));
    e.style.cssText = `left:${(j + 0.5) * size.s}px;top:${(i + 0.5) * size.s}px;color:${over(v.colour(value))}`;
  }
  return box;
}
function drawMaps(box, foot, v) {
  const row = box.appendChild(el("div", "row")), strip = row.appendChild(el("div", "strip")), from = first(v.n), size = smallSize(v.lay);
  const focus = v.n === S.focus, map = Math.min(S.map, v.lay.count - 1);
  for (let m = from; m < Math.min(from + perPage(v.n), v.lay.count); m++) {
    const b = strip.appendChild(el("button", `map ${focus && m === map ? "on" : ""}`));
    b.append(drawMap(v, m, size, false));
    b.tabIndex = focus ? 0 : -1; b.dataset.key = `map${v.n}${v.band}${m}`; b.setAttribute("aria-label", `${name(v, m)}, values ${rangeText(v)}`);
    b.onclick = e => { if (e.detail === 0) act.open(v.n, m); };          // by keyboard; a pointer hits the canvas
  }
  let more = size.smooth ? "reduced" : "";
  if (focus) {
    row.append(S.tiles && v.band === "value" ? tiles(v) : lensOf(v, map));
    more = v.lay.count === 1 ? "" : v.band === "value" ? `map ${map}, enlarged` : v.band === "gradient" ? "its gradient" : `filter ${map}${(v.lay.slices ?? 1) > 1 ? `, slice ${sliceOf(v.n, v.band)}` : ""}`;
  }
  scale(foot, v, size.w, more);
}
// All maps of a layer at once, small.
function tiles(v) {
  const box = el("div", "tiles"), s = TILE / Math.max(v.lay.H, v.lay.W);
  for (let m = 0; m < Math.min(v.lay.count, 512); m++) {
    const b = box.appendChild(el("button", m === S.map ? "on" : ""));
    const canvas = el("canvas");
    paint(canvas, v.lay.H, v.lay.W, (i, j) => v.colour(v.value(m, i, j) ?? 0));
    canvas.style.width = v.lay.W * s + "px"; canvas.style.height = v.lay.H * s + "px";
    b.append(canvas); b.setAttribute("aria-label", `map ${m}`); b.title = `map ${m}`;
    b.onclick = () => act.open(v.n, m);
  }
  return box;
}
function drawVector(box, foot, v) {
  const row = box.appendChild(el("div", "row")), high = perPage(v.n) * SLOT - 8;
  const size = { w: v.lay.W > VECTOR ? v.lay.W : VECTOR, h: v.lay.H === 64 ? high : Math.min(high, v.lay.H * 8) };
  if (v.lay.W > 64) return box.append(el("p", "none", `${whole(v.lay.vector)} numbers, too many to draw.`));
  if (v.lay.W < 4) size.w = Math.max(12, v.lay.W * 12);
  row.append(el("div", "map")); row.firstChild.append(drawMap(v, 0, size, false));
  if (v.n === S.focus && v.lay.W > 1) row.append(lensOf(v, 0));
  scale(foot, v, Math.min(size.w, VECTOR));
}
function drawPicture(box, foot, v) {
  const size = pictureSize(v.lay), colour = v.lay.count === 3, map = Math.min(S.map, v.lay.count - 1), channel = S.focus === v.n || colour ? map : 0;
  const holder = box.appendChild(el("div", "picture")), canvas = drawMap(v, channel, size, false);
  if (colour && v.band === "value") paintColours(canvas, v);
  holder.append(canvas);
  if (v.band === "value") MODES[S.mode].underPicture(holder, canvas, v);
  else if (v.entry) holder.append(el("p", "small muted", phone() ? "" : `Blue: more ${colour ? ["red", "green", "blue"][channel] : "ink"} here<br>lowers the loss.<br>Orange: raises it.`));
  scale(foot, v, size.w);
}
function paintColours(canvas, v) {
  const [low, high] = S.model.range, level = x => x === null ? 0 : (x - low) / (high - low) * 255;
  paint(canvas, v.lay.H, v.lay.W, (i, j) => [0, 1, 2].map(c => level(v.value(c, i, j))));
}
function drawBars(box, foot, v) {
  const list = box.appendChild(el("div", "bars")), answer = isAnswer(v.n), K = v.shape[0] ?? 1, focus = v.n === S.focus;
  const values = Array.from({ length: K }, (_, k) => v.value(0, ...Object.values(v.lay.at([k])).slice(1)));
  const best = values.indexOf(Math.max(...values)), truth = answer ? S.look?.truth ?? null : null;
  let rows = [...values.keys()];
  const most = Math.min(K > 12 ? ROWS : 12, Math.floor(perPage(v.n) * SLOT / 16));
  if (K > most) {
    const main = view(v.n, "value"), by = rows.map(k => Math.abs(main.value(0, ...Object.values(main.lay.at([k])).slice(1)) ?? 0));
    rows = rows.sort((a, b) => by[b] - by[a]).slice(0, most);
    if (truth !== null && !rows.includes(truth)) rows[most - 1] = truth;
  }
  const shares = v.band === "value" && column(v.n).activation === "softmax", low = Math.min(0, v.entry?.min ?? 0), both = v.band !== "value" || low < 0;
  list.style.width = (focus && !phone() ? 232 : BARS) + "px"; list.style.gridTemplateRows = `repeat(${Math.max(rows.length, 1)}, minmax(0, 1fr))`;
  if (rows.length < Math.min(ROWS, most)) list.style.height = rows.length * 23 + "px";
  for (const k of rows) {
    const value = values[k] ?? 0, b = list.appendChild(el("button", "bar")), full = shares ? 1 : v.most || 1;
    b.classList.toggle("hit", answer && v.band === "value" && k === best); b.classList.toggle("truth", k === truth);
    const share = Math.min(1, Math.abs(value) / full), fill = both ? `left:${value < 0 ? 50 - 50 * share : 50}%;width:${50 * share}%;background:${css(v.band === "value" ? v.colour(value) : linear(value < 0 ? -1 : 1, 2))}` : `width:${100 * share}%`;
    const label = answer || K === 1 ? S.model.names[K === 1 ? 1 : k] ?? k : k;
    b.innerHTML = `<b>${esc(label)}</b><span class="t"><i style="${fill}"></i>${both ? '<i class="mid"></i>' : ""}</span><span class="n">${shares ? percent(value) : cell(value)}</span>`;
    b.setAttribute("aria-label", `${label}: ${shares ? percent(value) : num(value)}${k === truth ? ", the truth" : ""}`);
    b.tabIndex = focus ? 0 : -1; b.dataset.key = `bar${v.n}${v.band}${k}`;
    const where = { band: v.band, col: v.n, place: v.shape.length ? [k] : [] };
    b.onclick = () => act.pin(where, true); b.onpointermove = e => { if (e.pointerType !== "touch") act.hover(where); }; b.onpointerleave = () => act.hover(null);
    spots.set(`${v.n}|${v.band}|bar${k}`, { el: b });
  }
  if (K > rows.length) { list.classList.add("many-rows"); list.after(el("p", "small muted", `${K - rows.length} more`)); }
  const loss = S.look?.loss;
  if (v.band === "value" && loss && v.n === columns().length - 1) foot.append(el("div", "scale", `<span><span class="strong">loss <b>${num(loss.own ?? loss.value)}</b></span>${truth !== null && loss.kind?.includes("cross") ? ` = −log p<sub>${esc(S.model.names[truth])}</sub>` : ""}</span>`));
  else foot.append(el("div", "scale", `<span>${v.band === "gradient" && v.entry?.what === "dz" && answer ? "p − t, per score" : rangeText(v)}</span>`));
}
function pager(grid, n) {
  const lay = view(n, "value").lay, colour = kindOf(n) === "picture" && lay.count === 3, N = perPage(n);
  if (kindOf(n) === "bars" || kindOf(n) === "vector" || lay.count <= N && !colour) return;
  const from = colour ? Math.min(S.map, 2) : first(n), step = colour ? 1 : N, last = lay.count - (colour ? 1 : N);
  const p = put(grid, n, 5, el("div", "pager above", `<button aria-label="earlier maps of ${esc(column(n).name)}">‹</button><button class="pages">${colour ? `channel ${from}` : range(from, from + N - 1)}</button><button aria-label="later maps of ${esc(column(n).name)}">›</button>`));
  const [back, middle, on] = p.children, go = to => colour ? act.open(n, Math.max(0, Math.min(last, to))) : act.page(n, Math.max(0, Math.min(last, to)));
  middle.title = `${range(from, from + N - 1)} of ${counted(lay.count, "map")}`; middle.setAttribute("aria-label", `${middle.title}, show all`);
  [back, middle, on].forEach((b, k) => { b.dataset.key = `page${n}-${k}`; });
  back.disabled = from <= 0; on.disabled = from >= last;
  back.onclick = () => go(from - step); on.onclick = () => go(from + step); middle.onclick = () => act.tiles(n);
}
// Where an element lies, in the net's own coordinates: very wide screens are zoomed, and rectangles come zoomed.
export function inNet(e) {
  const net = $("#net"), zoom = +getComputedStyle(document.body).zoom || 1, r = e.getBoundingClientRect(), o = net.getBoundingClientRect();
  return { x: (r.left - o.left) / zoom + net.scrollLeft, y: (r.top - o.top) / zoom + net.scrollTop, w: r.width / zoom, h: r.height / zoom };
}
export function boxOf(n, band, m, lo, hi, lens) {
  const spot = spots.get(`${n}|${band}|${m}|${lens ? 1 : 0}`);
  if (!spot) return null;
  const r = inNet(spot.el), { H, W } = spot.lay;
  return { x: r.x + lo.j * r.w / W, y: r.y + lo.i * r.h / H, w: (hi.j - lo.j + 1) * r.w / W, h: (hi.i - lo.i + 1) * r.h / H };
}
export function barOf(n, band, k) {
  const spot = spots.get(`${n}|${band}|bar${k}`);
  return spot ? inNet(spot.el.querySelector(".t")) : null;
}
