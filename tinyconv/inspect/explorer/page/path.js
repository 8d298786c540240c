// What the shown number is made of, and what it makes: green outlines over the maps, and lines between them.
import { S, $, column, columns, shown, phone } from "./state.js";
import { up, down, dot, isDot, through } from "./arrays.js";
import { boxOf, barOf, pageOf, inNet } from "./net.js";
import { view, kindOf } from "./views.js";
import { perPage, colOf, headOf, alone, branches } from "./lanes.js";

const readers = n => columns().flatMap((c, r) => c.reads.flatMap((from, k) => from === n ? [{ n: r, links: c.links[k] }] : []));
const join = (a, b) => a ? a.map(([lo, hi], k) => [Math.min(lo, b[k][0]), Math.max(hi, b[k][1])]) : b;
const sums = links => links.some(l => l.kind === "last" || l.kind === "any" || l.kind === "window" && l.channels !== "same");

// The winner of a pooling window is the first largest number under it.
export function winner(n, place) {
  const c = column(n), link = c.links[0]?.find(l => l.kind === "window" && l.max), box = link && up(link, dot(place)), v = view(c.reads[0], "value");
  if (!box) return null;
  let best = null, most = -Infinity;
  for (let i = box[0][0]; i <= box[0][1]; i++) for (let j = box[1][0]; j <= box[1][1]; j++) { const x = v.value(place[2], i, j); if (x > most) { most = x; best = [i, j, place[2]]; } }
  return best;
}
// For every column before n the box of numbers that reach this one.
function sources(n, place) {
  const found = { [n]: dot(place) };
  for (let k = n; k > 0; k--) if (found[k]) column(k).reads.forEach((r, at) => { const box = through(column(k).links[at], found[k], up); if (box) found[r] = join(found[r], box); });
  delete found[n];
  return found;
}
// Behind n: those that use the number, as far as it stays itself; the first sum it enters is the last.
function users(n, place, deep) {
  const found = {}, queue = [{ n, box: dot(place) }];
  while (queue.length) {
    const at = queue.shift();
    for (const { n: r, links } of readers(at.n)) {
      const box = through(links, at.box, down);
      if (!box) continue;
      const pool = links.find(l => l.kind === "window" && l.max);
      if (pool && isDot(at.box) && isDot(box)) { const won = winner(r, box.map(([a]) => a)); if (won && won.join() !== at.box.map(([a]) => a).join()) continue; }
      if (column(r).kind === "Dense" && !deep) continue;
      found[r] = join(found[r], box);
      if (!sums(links) || deep && at.n === n && links.length && !links.some(l => l.kind === "last")) queue.push({ n: r, box });
    }
  }
  return found;
}
export function pathOf(p) {
  if (!p || p.band.includes("/")) return [];
  const list = [], add = (boxes, band) => Object.entries(boxes).forEach(([n, box]) => list.push({ n: +n, band, box }));
  if (p.band === "value") { add(sources(p.col, p.place), "value"); add(users(p.col, p.place, false), "value"); return list; }
  add(users(p.col, p.place, true), "gradient");
  const c = column(p.col);
  if (c.reads.length) {
    const won = winner(p.col, p.place), links = c.links[0];
    if (won) list.push({ n: c.reads[0], band: "gradient", box: dot(won) });
    else if (links.length && !sums(links)) { const box = through(links, dot(p.place), up); if (box && isDot(box)) list.push({ n: c.reads[0], band: "gradient", box }); }
  }
  return list;
}
// A box on the maps that can be seen of a column.
function rects({ n, band, box }) {
  if (kindOf(n) === "bars") { const k = box[0]?.[0] ?? 0; return isDot(box) ? [barOf(n, band, k)].filter(Boolean).map(r => ({ ...r, m: 0 })) : []; }
  const v = view(n, band), found = [];
  if (!v || box.length !== v.shape.length) return found;
  const whole = box.every(([a, b], k) => a === 0 && b === v.shape[k] - 1);
  if (v.lay.vector !== undefined) { if (!isDot(box)) return found; const at = v.lay.at(box.map(([a]) => a)), r = boxOf(n, band, 0, at, at, false); return r ? [{ ...r, m: 0 }] : []; }
  const share = ([a, b], k) => (b - a + 1) / v.shape[k];
  if (whole && v.shape.length === 3 && v.lay.H > 1 || !isDot(box) && share(box[0], 0) > 0.8 && share(box[1], 1) > 0.8) return found;     // all of it says nothing
  const [m0, m1] = box[2] ?? [0, 0], from = kindOf(n) === "picture" ? Math.max(m0, 0) : pageOf(n), upto = kindOf(n) === "picture" ? m1 : from + perPage(n) - 1;
  for (let m = Math.max(m0, from); m <= Math.min(m1, upto); m++) {
    const r = boxOf(n, band, m, { i: box[0][0], j: box[1][0] }, { i: box[0][1], j: box[1][1] }, false);
    if (r) found.push({ ...r, m });
  }
  return found;
}
// Pages turn by themselves so that the path is in sight; the reader's own paging wins until the next pin.
export function follow() {
  const to = (n, m) => { const N = perPage(n); if (kindOf(n) === "maps" && !S.turned.has(n) && (m < pageOf(n) || m > pageOf(n) + N - 1)) S.pages[n] = Math.floor(m / N) * N; };
  to(S.focus, S.map);
  if (!S.pin || !S.look) return;
  for (const { n, box } of pathOf(S.pin)) if (box.length === 3) {
    const open = S.open !== null && (n === column(S.pin.col).reads[0] || column(n).reads.includes(S.pin.col));
    if (box[2][0] === box[2][1]) to(n, box[2][0]); else if (open) to(n, S.open);
  }
}
export function drawPath() {
  const svg = $("#over"), p = shown();
  if (!svg) return;
  if (!p || !S.look || S.mode === "train") { svg.innerHTML = wires(); return; }
  const mine = me(p), lines = [], outlines = [];
  for (const part of pathOf(p)) {
    const before = part.n < p.col, close = column(p.col).reads.includes(part.n) || column(part.n).reads.includes(p.col);
    for (const r of rects(part)) {
      const strong = isDot(part.box) || r.m === S.open;
      outlines.push(outline(r, close && strong && close));
      if (close && mine) lines.push(before ? line(r, mine.start, strong) : line(mine.end, r, strong));
    }
  }
  svg.innerHTML = wires() + lines.join("") + outlines.join("") + (mine ? [...mine.all.slice(0, -1).map(r => outline(r, false)), outline(mine.all.at(-1), true)].join("") : "");
}
// In a graph with branches: who reads whom. Over the columns between them a line goes above all names.
function wires() {
  if (phone() || !branches()) return "";
  const names = columns().map((c, n) => inNet(headOf(n).firstChild)), ceiling = Math.min(...names.map(r => r.y)) - 3;
  return columns().flatMap((c, n) => c.reads.map(r => {
    const far = colOf(n) - colOf(r) > 1, a = names[r], b = names[n];
    if (!far && alone(n) && alone(r)) return "";
    const over = far && alone(r), into = far && alone(n), [x0, y0] = over ? [a.x + 24, a.y - 1] : [a.x + headOf(r).offsetWidth + 2, a.y + 8], [x1, y1] = into ? [b.x + 12, b.y - 1] : [b.x - 3, b.y + 8], d = (x1 - x0) / 2;
    if (!far) return `<path class="wire" d="M${x0} ${y0}C${x0 + d} ${y0} ${x1 - d} ${y1} ${x1} ${y1}"/>`;
    const rise = over ? `Q${x0} ${ceiling} ${x0 + 12} ${ceiling}` : `C${x0 + 12} ${y0} ${x0} ${ceiling} ${x0 + 16} ${ceiling}`, fall = into ? `Q${x1} ${ceiling} ${x1} ${y1}` : `C${x1} ${ceiling} ${x1 - 12} ${y1} ${x1} ${y1}`;
    return `<path class="wire" d="M${x0} ${y0}${rise}H${x1 - 14}${fall}"/>`;
  })).join("");
}
function me(p) {
  if (kindOf(p.col) === "bars" && !p.band.includes("/")) { const r = barOf(p.col, p.band, p.place[0] ?? 0); return r && { all: [r], start: r, end: r }; }
  const v = view(p.col, p.band), at = v.lay.at(p.place), small = boxOf(p.col, p.band, at.m, at, at, false), large = boxOf(p.col, p.band, at.m, at, at, true);
  const all = [small, large].filter(Boolean);
  return all.length ? { all, start: large ?? small, end: large ?? small } : null;
}
const outline = (r, strong) => [["--page", strong ? 5 : 4], ["--accent", strong ? 2.5 : 1.75]].map(([c, w]) => `<rect x="${r.x - 1}" y="${r.y - 1}" width="${r.w + 2}" height="${r.h + 2}" fill="none" stroke="var(${c})" stroke-width="${w}"/>`).join("");
function line(a, b, strong) {
  const x0 = a.x + a.w + 1, y0 = a.y + a.h / 2, x1 = b.x - 1, y1 = b.y + b.h / 2, d = Math.max(12, (x1 - x0) * 0.45);
  return `<path d="M${x0} ${y0}C${x0 + d} ${y0} ${x1 - d} ${y1} ${x1} ${y1}" fill="none" stroke="var(--accent)" stroke-width="1.25" opacity="${strong ? 0.9 : 0.35}"/>`;
}
