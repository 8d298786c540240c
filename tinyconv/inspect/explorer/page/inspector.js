// One panel, one explanation: which number, where it comes from, the sum that ends in it, formula, source, Python.
import { S, $, column, shown, numberOf, phone } from "./state.js";
import { esc, num, signed, power, counted, whole } from "./numbers.js";
import { linear, ink, css, over, paint } from "./colours.js";
import { el } from "./net.js";
import { view, isAnswer } from "./views.js";
import { emptied } from "./sheet.js";
import { figureOf } from "./figures.js";

let act = {};
export const inspectorHandlers = given => { act = given; };
const name = k => esc(S.model.names[k] ?? k);
const width = () => phone() ? innerWidth - 32 : $("#inspector").clientWidth - 48 || 392;

// ---------------------------------------------------------------- words for a place
export function placeWords(p) {
  const c = column(p.col), s = p.place;
  if (p.band.includes("/")) {
    const shape = c.weights[p.band.split("/")[1]];
    if (shape.length === 4) return `Row ${s[0]}, column ${s[1]} of filter ${s[3]}${shape[2] > 1 ? `, slice ${s[2]}` : ""}`;
    if (shape.length === 2) return `From number ${s[0]} to unit ${s[1]}`;
    return `Number ${s[0]} of ${esc(p.band.split("/")[1])}`;
  }
  if (isAnswer(p.col)) return p.band === "gradient" ? `Score of ${name(s[0])}` : `${c.z ? "Score and probability" : "Score"} of ${name(s[0])}`;
  if (c.shape.length === 3) return c.input ? `Row ${s[0]}, column ${s[1]} of the picture${c.shape[2] > 1 ? `, channel ${s[2]}` : ""}` : `Row ${s[0]}, column ${s[1]}, map ${s[2]}`;
  if (c.shape.length === 2) return `Row ${s[0]}, column ${s[1]}`;
  return c.shape.length ? `Number ${s[0]} of ${whole(c.shape[0])}` : "The number";
}
const bandWord = p => p.band === "value" ? "output" : p.band === "gradient" ? "gradient" : p.band.replace("/", " of ");

// ---------------------------------------------------------------- the panel
// The map or filter whose products are the largest part of the sum.
export function mainGroup(e) {
  const found = groupsOf(e);
  return found && found.groups.length > 1 ? found.groups.reduce((a, b) => Math.abs(b.sum) > Math.abs(a.sum) ? b : a).id : null;
}
export function drawInspector() {
  const panel = $("#inspector"), p = shown(), e = S.explanation, top = panel.scrollTop, keep = document.activeElement?.dataset?.key;
  emptied();
  if (!p || !S.look) panel.append(section("top", `<h1>Where does a number come from?</h1><p class="muted">${S.look ? "Move over any number. A click keeps it, so that you can walk its path; the arrow keys step through the network." : "Reading the picture…"}</p>`));
  else if (!e) panel.append(section("top", `<p class="kick"><span>${esc(column(p.col).name)}, ${bandWord(p)}</span></p><h1>${placeWords(p)}</h1>${figure([["", valueOf(p)]])}`));
  else if (e.loss) lossPanel(panel, e);
  else numberPanel(panel, p, e);
  panel.scrollTop = top;
  if (keep) panel.querySelector(`[data-key="${keep}"]`)?.focus({ preventScroll: true });
}
const section = (cls, html) => el("section", cls, html);
const figure = parts => `<div class="figure">${parts.map(([label, value, soft]) => `<div>${label ? `<span>${label}</span>` : ""}<b class="big ${soft ? "soft" : ""}">${typeof value === "string" ? value : num(value)}</b></div>`).join("")}</div>`;
export function valueOf(p) {
  const v = view(p.col, p.band), at = v.lay.at(p.place);
  return v.value(at.m, at.i, at.j);
}
const keep = () => `<span>${S.hover ? "click to keep" : S.pin?.kept ? "Esc unpins" : ""}</span>`;

function numberPanel(panel, p, e) {
  const c = column(p.col), gradient = p.band === "gradient", digits = gradient && Math.abs(e.value) < 1 ? 5 : 4;
  let figures = [["", num(e.value, digits)]], under = "";
  if (gradient) { const m = measured(e, digits); figures = [["by the chain rule", num(e.value, digits)], ["measured, by nudging it", m.value, true]]; under = m.text; }
  if (e.score) figures = [["score", num(e.score.value)], ["probability", num(e.value), true]];
  panel.append(section("top", `<p class="kick"><span>${esc(c.name)}, ${bandWord(p)}</span>${keep()}</p><h1>${placeWords(p)}</h1>${figure(figures)}${under}<p>${told(e).map(esc).join(" ")}</p>`));
  if (e.score) sumSection(panel, e.score, "The score");
  sumSection(panel, e, e.score ? "The probability" : "The sum");
  const drawn = figureOf(p, e);
  if (drawn) panel.lastChild.append(drawn);
  theory(panel, e.score ?? e, e.score ? e : null);
}
// The title has said where; the sentences say the rest.
const told = e => e.sentences.filter(t => !/^(Map \d+ of image \d+, row \d+, column \d+|Row \d+, column \d+ of channel \d+ in image \d+)\.$/.test(t)).slice(0, 3);
function measured(e, digits) {
  const m = S.measured;
  if (!m) return { value: "…", text: '<p class="small muted">&nbsp;</p>' };
  if (m.error) return { value: "–", text: `<p class="small muted">${esc(m.error)}</p>` };
  const slopes = `${num(m.left, digits)} and ${num(m.right, digits)}`, [down, , up] = m.losses, at = power(m.step, 0).replace("1 × ", "");
  const right = m.verdict !== "wrong", both = m.gradient === 0 && Math.abs(m.slope) < 1e-9;
  if (m.verdict === "kink") return { value: num(m.slope, digits), text: `<p class="small muted">A kink: the loss has two slopes here, ${slopes}.</p>` };
  if (m.verdict === "rounding") return { value: num(m.slope, digits), text: '<p class="small muted">A ReLU or a pool decides otherwise in double precision.</p>' };
  const text = both ? "✓ both are zero:" : right ? `✓ ${counted(Math.min(m.digits, 9), "digit")} agree:` : "✗ They disagree:";
  return { value: both ? "0" : num(m.slope, digits), text: `<p class="small muted"><span class="verdict ${right ? "" : "no"}">${text}</span> loss ${up.toFixed(7)} at +${at}, ${down.toFixed(7)} at −${at}</p>` };
}
function lossPanel(panel, e) {
  const loss = S.look.loss, t = S.look.truth, classes = loss.targets && isAnswer(S.model.columns.length - 1), figures = [["loss", num(loss.own ?? loss.value)]];
  if (classes && t !== null) figures.push([`probability of ${name(t)}`, num(loss.outputs[t]), true]);
  panel.append(section("top", `<p class="kick"><span>loss${loss.batch > 1 ? `, of a batch of ${loss.batch}` : ""}</span></p><h1>${classes && t !== null ? `${S.look.assumed ? "Taken for" : "The truth is"} ${name(t)}` : "How wrong it is"}</h1>${figure(figures)}<p>${e.sentences.map(esc).join(" ")}</p>`));
  if (loss.targets) {
    const order = [...loss.targets.keys()].sort((a, b) => loss.outputs.length > 12 ? loss.outputs[b] - loss.outputs[a] : a - b).slice(0, 12);
    if (t !== null && t !== undefined && !order.includes(t)) order[11] = t;
    const rows = order.map(k => `<tr class="${k === t ? "strong" : ""}"><th scope="row">${name(k)}</th><td>${num(loss.outputs[k])}</td><td>${num(loss.targets[k])}</td><td>${num(loss.gradient[k])}</td></tr>`).join("");
    panel.append(section("part", `<h2>Where backward begins<span>${classes ? "probability − truth" : "by the loss's own derivative"}${loss.batch > 1 ? `, / ${loss.batch}` : ""}</span></h2><table class="lines many"><tr><th scope="col">${classes ? "class" : "output"}</th><th scope="col">p</th><th scope="col">t</th><th scope="col">gradient</th></tr>${rows}</table>`));
  }
  sumSection(panel, e, "The sum");
  theory(panel, e);
}

// ---------------------------------------------------------------- the sum
function sumSection(panel, e, title) {
  const box = section("part", ""), lines = [], digits = Math.abs(e.value) < 1e-2 ? 6 : Math.abs(e.value) < 1 ? 5 : 4, grouped = groupsOf(e);
  let note = "";
  if (grouped) {
    const { groups, what, axis } = grouped, best = groups.reduce((b, g, k) => Math.abs(g.sum) > Math.abs(groups[b].sum) ? k : b, 0), open = groups.find(g => g.id === S.open) ?? groups[best];
    note = groups.length > 1 ? `one bar for each of ${counted(groups.length, what)}; ${what} ${open.id} is open` : "";
    box.append(heading(title, note));
    if (groups.length > 1) box.append(bars(groups, open, what));
    box.append(matrices(e, open, grouped));
    lines.push([groups.length > 1 ? `${what} ${open.id}, ${counted(open.rows.length, "product")}` : counted(open.rows.length, "product"), signed(open.sum, digits)]);
    if (groups.length > 1) lines.push([`the other ${counted(groups.length - 1, what)}`, signed(groups.reduce((s, g) => s + g.sum, 0) - open.sum, digits)]);
    for (const other of e.others ?? []) lines.push([termName(other), signed(other.value, digits)]);
  } else {
    const more = e.rest ? `the ${e.terms.length} largest of ${whole(e.count)}` : "";
    box.append(heading(title, more));
    const field = fieldOf(e);
    if (field) box.append(field);
    for (const t of e.terms) lines.push([`${termName(t)}${t.factors.length > 1 ? `<span class="muted">: ${t.factors.map(f => num(f.value, 3)).join(" × ")}</span>` : ""}${t.why ? ` <span class="muted">(${esc(t.why)})</span>` : ""}`, signed(t.value, digits)]);
    if (e.rest) lines.push([`the other ${whole(e.rest.count)}${e.rest.zeros ? `<span class="muted">, ${whole(e.rest.zeros)} of them zero</span>` : ""}`, signed(e.rest.sum, digits)]);
  }
  const zeros = e.products ? e.products.values.filter(v => v === 0).length : 0, all = e.count > 1 || e.then.length;
  const reasons = e.products ? count(e.products.why.filter(Boolean)) : e.rest?.reasons ?? {};
  const table = el("table", "lines", lines.map(([a, b]) => `<tr><td>${a}</td><td>${b}</td></tr>`).join("")
    + (all ? `<tr class="total"><td>sum${e.count > 12 ? ` of ${whole(e.count)} terms${zeros ? `, ${whole(zeros)} of them zero` : ""}` : ""}</td><td>${num(e.sum, digits)}</td></tr>` : "")
    + e.then.map(t => `<tr class="${all ? "" : "total"}"><td>${esc(t.text)}</td><td><b>${num(t.value, digits)}</b></td></tr>`).join(""));
  box.append(table);
  const said = Object.entries(reasons).map(([why, n]) => `${n} ${why}`).join(", ");
  if (said) box.append(el("p", "small muted", `<i class="hatch"></i>${p0(e)}: ${esc(said)}`));
  if (e.facts.length) box.append(el("table", "lines facts", e.facts.map(f => `<tr><td>${esc(f.name)} <span class="muted">${esc(f.text)}</span></td><td>${num(f.value)}</td></tr>`).join("")));
  panel.append(box);
}
const p0 = e => e.what.startsWith("d") ? "no gradient" : "zero";
const heading = (title, note) => el("h2", "", `${title}<span>${esc(note)}</span>`);
const count = list => list.reduce((found, why) => ({ ...found, [why]: (found[why] ?? 0) + 1 }), {});
// Places in arrays that begin with the batch axis; the page shows one sample.
const OF_A_SAMPLE = /^(d?(input|output|z)\b|d?(input|output)_|x̂|targets|−?[pt]$|−log|exp)/;
const termName = t => esc(t.factors.length === 1 || t.factors.some(f => f.place) ? t.factors.map(f => f.place ? `${f.name} ${f.place.slice(f.place.length > 1 && OF_A_SAMPLE.test(f.name) ? 1 : 0).join(", ")}` : f.name).join(" × ") : t.factors.map(f => f.name).join(" × "));

// The products of a convolution, map by map: a bar for each, one open as window × filter = products.
function groupsOf(e) {
  if (!e.products) return null;
  const cols = e.products.columns, w = cols.findIndex(c => c.places && c.places[0].length === 4 && c.name.includes("kernel")), x = 1 - w;
  if (w < 0 || cols[x].places?.[0].length !== 4) return null;
  const gradient = cols[x].name.startsWith("d"), groups = new Map();
  cols[x].places.forEach((at, row) => {
    const id = at[3];
    if (!groups.has(id)) groups.set(id, { id, sum: 0, rows: [] });
    const g = groups.get(id); g.sum += e.products.values[row]; g.rows.push(row);
  });
  const KH = 1 + Math.max(...cols[w].places.map(p => p[0])), KW = 1 + Math.max(...cols[w].places.map(p => p[1]));
  return { groups: [...groups.values()].sort((a, b) => a.id - b.id), what: gradient ? "filter" : "map", gradient, KH, KW, x, w };
}
function bars(all, open, what) {
  const groups = all.map(g => ({ id: g.id, on: g === open, sum: Number.isFinite(g.sum) ? g.sum : 0 }));
  const w = width() - 48, h = 56, bw = w / groups.length, up = Math.max(0, ...groups.map(g => g.sum)), low = Math.max(0, ...groups.map(g => -g.sum)), k = h / (up + low || 1), y0 = up * k;
  const box = el("div", "channels", `<button aria-label="${what} before" data-key="chan-">‹</button><svg width="${w}" height="${h}" role="img" aria-label="${what} ${open.id}: ${num(open.sum)}">${groups.map((g, n) => `<rect class="hit" x="${n * bw}" width="${bw}" y="0" height="${h}" fill="${g.on ? "var(--accent-soft)" : "transparent"}" data-id="${g.id}"><title>${what} ${g.id}: ${num(g.sum)}</title></rect><rect x="${n * bw + 0.5}" width="${Math.max(1, bw - (bw > 8 ? 2 : 1))}" y="${g.sum > 0 ? y0 - g.sum * k : y0}" height="${Math.max(0.5, Math.abs(g.sum) * k)}" fill="var(--${g.sum < 0 ? "neg" : "pos"})" pointer-events="none"/>`).join("")}<line x1="0" x2="${w}" y1="${y0}" y2="${y0}" stroke="var(--line2)"/></svg><button aria-label="${what} after" data-key="chan+">›</button>`);
  const at = all.indexOf(open);
  box.firstChild.disabled = at === 0; box.lastChild.disabled = at === groups.length - 1;
  box.firstChild.onclick = () => act.channel(groups[at - 1].id); box.lastChild.onclick = () => act.channel(groups[at + 1].id);
  box.querySelectorAll("rect.hit").forEach(r => { r.onclick = () => act.channel(+r.dataset.id); });
  return box;
}
function matrices(e, open, { gradient, KH, KW, x, w, what }) {
  const cols = e.products.columns, cells = Array.from({ length: KH * KW }, () => null);
  for (const row of open.rows) { const [k, l] = cols[w].places[row]; cells[gradient ? (KH - 1 - k) * KW + KW - 1 - l : k * KW + l] = row; }
  const box = el("div", "equation"), source = numberOf(e.layer), printed = KW <= 3;
  const xs = cells.map(r => r === null ? 0 : cols[x].values[r]), ws = cells.map(r => r === null ? 0 : cols[w].values[r]), ps = cells.map(r => r === null ? 0 : e.products.values[r]);
  const read = gradient ? null : column(source)?.reads[0], most = a => Math.max(...a.map(Math.abs)) || 1, xMost = gradient ? most(cols[x].values) : view(read ?? 0, "value")?.most ?? most(xs), wMost = most(cols[w].values);
  const why = cells.map(r => r === null ? "" : e.products.why[r]);
  const scale = most(ps) >= 0.02 || most(ps) === 0 ? [1, ""] : most(ps) >= 2e-5 ? [1e3, " × 10⁻³"] : [1e6, " × 10⁻⁶"], xScale = most(xs) >= 0.02 || most(xs) === 0 ? [1, ""] : most(xs) >= 2e-5 ? [1e3, " × 10⁻³"] : [1e6, " × 10⁻⁶"];
  const mat = (values, colour, factor, hatched) => `<div class="matrix ${printed ? "" : "small-cells"}" style="grid-template-columns:repeat(${KW},1fr)">${values.map((v, k) => { const c = colour(v); return `<span data-k="${k}" class="${hatched && why[k] ? "off" : ""}" ${why[k] ? `title="${esc(why[k])}"` : ""} style="background:${css(c)};color:${over(c)}">${printed ? fit(v * factor) : ""}</span>`; }).join("")}</div>`;
  box.innerHTML = `<p class="label"><b>${gradient ? esc(cols[x].name) : "window"}</b> ${gradient ? "of the users" : `in map ${open.id}`}${xScale[1]}</p><i></i><p class="label"><b>filter</b> ${gradient ? `${open.id}, turned` : cols[w].places[0][3]}</p><i></i><p class="label"><b>products</b>${scale[1]}</p>`
    + mat(xs, v => gradient ? linear(Math.sign(v) * Math.sqrt(Math.abs(v) / xMost), 1) : ink(v, xMost), xScale[0], gradient || true) + "<i>×</i>" + mat(ws, v => linear(v, wMost), 1, false) + "<i>=</i>" + mat(ps, v => linear(v, most(ps)), scale[0], true);
  const out = el("p", "product small muted", "&nbsp;"), wrap = el("div"); wrap.append(box, out);
  box.querySelectorAll("span[data-k]").forEach(s => {
    s.onpointerenter = () => { const k = +s.dataset.k; box.querySelectorAll(`[data-k="${k}"]`).forEach(t => t.classList.add("hot")); out.innerHTML = `${num(xs[k])} × ${num(ws[k])} = ${num(ps[k])}${why[k] ? `, ${esc(why[k])}` : ""}`; };
    s.onpointerleave = () => { box.querySelectorAll(".hot").forEach(t => t.classList.remove("hot")); out.innerHTML = "&nbsp;"; };
  });
  return wrap;
}
const fit = v => { const text = Math.abs(v) < 5e-4 ? "0" : Math.abs(v) >= 10 ? v.toFixed(1) : Math.abs(v) >= 1 ? v.toFixed(2) : v.toFixed(3); return (phone() ? text.replace("0.", ".") : text).replace("-", "−"); };
// The gradient of a weight: its products lie all over the map.
function fieldOf(e) {
  if (!e.products) return null;
  const at = e.products.columns.map(c => c.places).find(p => p && p[0].length === 4);
  if (!at || e.products.columns.some(c => c.places?.[0].length === 4 && c.name.includes("kernel"))) return null;
  const out = e.products.columns.find(c => c.name.startsWith("d"))?.places ?? at, H = 1 + Math.max(...out.map(p => p[1])), W = 1 + Math.max(...out.map(p => p[2]));
  if (H * W < 4) return null;
  const values = new Float64Array(H * W), most = Math.max(...e.products.values.map(Math.abs)) || 1, canvas = el("canvas"), s = Math.max(1, Math.floor(160 / Math.max(H, W)));
  out.forEach((p, row) => { if (p[0] === 0) values[p[1] * W + p[2]] += e.products.values[row]; });
  paint(canvas, H, W, (i, j) => linear(values[i * W + j], most));
  canvas.style.cssText = `width:${W * s}px;height:${H * s}px`;
  const box = el("div", "field"); box.append(canvas, el("p", "small muted", `${whole(e.count)} products, each where its window stands`));
  return box;
}

// ---------------------------------------------------------------- formula, source, Python
// Browsers do not break formulas into lines: each part behind a comma becomes one of its own.
function formulas(mathml) {
  const whole = el("div", "", mathml).firstChild, parts = [[]];
  let deep = 0;
  for (const child of [...whole.childNodes]) {
    const sign = child.localName === "mo" ? child.textContent : "";
    deep += (sign === "(") - (sign === ")");
    if (sign === "," && !deep) parts.push([]); else parts.at(-1).push(child);
  }
  return parts.filter(p => p.length).map(p => { const math = whole.cloneNode(false); math.setAttribute("display", "inline"); math.setAttribute("displaystyle", "true"); math.append(...p); const one = el("span", "one-formula"); one.append(math); return one; });
}
function theory(panel, e, second) {
  panel.append(section("part", `<h2>Formula</h2><div class="formula" tabindex="0" role="group" aria-label="Formula"></div>`));
  panel.lastChild.lastChild.append(...[e, second].filter(Boolean).flatMap(each => formulas(each.mathml)));
  const r = e.reference, at = r.marked - r.line, told = r.code.slice(0, at).findLastIndex(l => l.trim().endsWith('"""')), from = Math.max(0, at - 2, told + 1), lines = r.code.slice(from, at + 2), indent = Math.min(...lines.filter(l => l.trim()).map(l => l.search(/\S/)));
  panel.append(section("part", `<h2>Reference<span>${esc(r.file.replace("tinyconv/", ""))}</span></h2><div class="source" tabindex="0" role="group" aria-label="Source">${lines.map((l, k) => `<div class="${from + k === at ? "mark" : ""}"><i>${r.line + from + k}</i><code>${esc(l.slice(indent))}</code></div>`).join("")}</div>`));
  const py = section("part", `<h2>In Python<span><button class="link" data-key="copy">Copy</button></span></h2><div class="python" tabindex="0" role="group" aria-label="Python">${esc(e.call)}</div>`);
  py.querySelector(".link").onclick = async click => { try { await navigator.clipboard.writeText(e.call); click.target.textContent = "Copied"; } catch { getSelection().selectAllChildren(py.querySelector(".python")); click.target.textContent = "Selected"; } };
  panel.append(py);
}
