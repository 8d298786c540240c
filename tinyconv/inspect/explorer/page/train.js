// Train: the library trains in the background at full speed; the page asks now and then, and looks back on demand.
import { S, $, column, phone } from "./state.js";
import { post, binary, latest } from "./talk.js";
import { layout } from "./arrays.js";
import { chart, smooth, thin } from "./chart.js";
import { esc, num, percent, whole, counted } from "./numbers.js";
import { linear, paint } from "./colours.js";
import { el } from "./net.js";
import { view, weightOf, sliceOf } from "./views.js";
import { emptied } from "./sheet.js";

const EVERY = 150, LOOK_EVERY = 300;        // milliseconds: progress, pictures
export const T = { points: [], unseen: [], moments: [], step: 0, epoch: 1, running: false, at: null, speed: 0, rate: 0.001, batch: 128, optimizer: "adam", optimizers: [], error: "", film: null };
let act = {}, timer = null, lookedAt = 0;

export const asks = () => ({ training: true, backward: false, ...(T.at === null ? {} : { moment: T.at }) });
export async function enter(given) { act = given; await poll(); }
export async function leave() {
  clearTimeout(timer); timer = null; T.at = null;
  if (T.step) { const fresh = await post("adopt"); Object.assign(S.model, fresh, { accuracy: undefined }); S.listed = null; act.relist(); act.look(); }
}
const poll = latest(async () => {
  const before = T.step, had = T.moments.length, p = await post("progress", { since: T.points.length });
  const over = p.step < before || p.count < T.points.length;
  if (over) { T.points = []; T.at = null; }
  Object.assign(T, p, { points: over ? (await post("progress", { since: 0 })).points : T.points.concat(p.points) });
  if (S.mode !== "train") return;
  if (T.at !== null && !T.moments.includes(T.at)) T.at = null;
  if (T.at === null && T.step !== before && Date.now() - lookedAt > LOOK_EVERY) { lookedAt = Date.now(); act.look(); }
  else if (T.step !== before || over || T.drawn !== T.running) act.panels();
  if (T.moments.length !== had || over) loadFilm();
  T.drawn = T.running;
  clearTimeout(timer);
  if (T.running || T.waiting) { T.waiting = false; timer = setTimeout(poll, EVERY); }
  else if (T.at === null && before !== T.step) act.look();
});
async function order(action, more = {}) {
  if (action === "start") T.at = null;
  await post("train", { action, ...more });
  T.waiting = true;
  clearTimeout(timer); timer = setTimeout(poll, 60);
  if (action === "step" || action === "over" || action === "pause") setTimeout(poll, 400);
}
export function scrub(step) {
  T.at = step === null || step === T.step && !T.running ? null : step;
  act.look(); act.panels();
}
const now = () => T.at ?? T.step;
const nearest = step => T.moments.reduce((a, b) => Math.abs(b - step) < Math.abs(a - step) ? b : a, T.moments[0] ?? 0);
export function key(e) {
  const inside = ["BUTTON", "SELECT"].includes(e.target.tagName);
  if (e.key === " " && !inside) order(T.running ? "pause" : "start");
  else if (e.key === "s" || e.key === "S") order("step");
  else if (e.key === "," || e.key === ".") { const k = T.moments.indexOf(nearest(now())) + (e.key === "," ? -1 : 1); if (k >= 0 && k < T.moments.length) scrub(T.moments[k]); }
  else return;
  e.preventDefault();
}

// ---------------------------------------------------------------- the bar: transport and time line
export function drawBar() {
  const most = Math.max(T.step, 1), epochs = Math.floor(T.step / T.epoch), at = v => `${(Math.min(1, v / most) * 100).toFixed(2)}%`;
  const marks = Array.from({ length: Math.min(epochs, 20) }, (_, k) => (k + 1) * T.epoch), named = marks.filter((v, k) => marks.length < 6 || (k + 1) % Math.ceil(marks.length / 5) === 0);
  $("#bar").innerHTML = `<div class="transport"><button class="button main" data-key="go"><svg width="10" height="12" aria-hidden="true"><path d="${T.running ? "M0 0h3v12H0zM7 0h3v12H7z" : "M0 0l10 6-10 6z"}" fill="currentColor"/></svg>${T.running ? "Pause" : T.step ? "Go on" : "Start"}</button><button class="button" data-key="one">One step</button><button class="button" data-key="over">Start over</button></div>`
    + `<div class="track"><input type="range" min="0" max="${most}" value="${now()}" data-key="time" aria-label="Time line" aria-valuetext="step ${now()} of ${T.step}"><div class="marks" aria-hidden="true"><span style="left:0">start</span>${named.map(v => `<span style="left:${at(v)}">epoch ${v / T.epoch}</span>`).join("")}</div></div>`
    + `<p class="say"><b>Step ${whole(now())}${T.at === null ? "" : ` of ${whole(T.step)}`}</b><br><span class="muted">${T.error ? `<span class="bad">${esc(T.error)}</span>` : T.running && T.speed ? `${whole(Math.round(T.speed / 100) * 100 || Math.round(T.speed))} images a second` : T.running ? "preparing…" : T.step ? "paused" : "not begun"}</span></p>`;
  $("[data-key=go]").onclick = () => order(T.running ? "pause" : "start");
  $("[data-key=one]").onclick = () => order("step");
  $("[data-key=over]").onclick = () => order("over");
  $("[data-key=time]").oninput = e => { const step = nearest(+e.target.value); if (step !== T.at) scrub(step); };
}

// ---------------------------------------------------------------- the panel: settings, curves, values
const logarithm = rate => Math.round(Math.log10(rate) * 20), power = mark => +(10 ** (mark / 20)).toPrecision(2);
export function drawInspector() {
  const panel = $("#inspector"), held = document.activeElement?.dataset?.key;
  if (panel.contains(document.activeElement) && document.activeElement.tagName === "SELECT" && panel.querySelector(".charts")) return fill(panel.querySelector(".charts"));
  emptied().insertAdjacentHTML("beforeend", `<section class="top"><h1>Train</h1><p>Change anything while it runs; it counts from the next step on.</p></section>
    <section class="fields"><label>Learning rate <b>${T.rate}</b><input type="range" min="-120" max="0" value="${logarithm(T.rate)}" data-key="rate" aria-label="Learning rate" aria-valuetext="${T.rate}"></label>
    <label>Batch size<select data-key="batch">${[...new Set([8, 16, 32, 64, 128, 256, 512, T.batch])].sort((a, b) => a - b).map(b => `<option ${b === T.batch ? "selected" : ""}>${b}</option>`).join("")}</select></label>
    <label>Optimiser<select data-key="optimizer">${T.optimizers.map(o => `<option ${o === T.optimizer ? "selected" : ""}>${o}</option>`).join("")}</select></label></section><div class="charts"></div>`);
  const rate = panel.querySelector("[data-key=rate]");
  rate.oninput = () => { T.rate = power(+rate.value); rate.previousElementSibling.textContent = T.rate; order("set", { rate: T.rate }); };
  panel.querySelector("[data-key=batch]").onchange = e => order("set", { batch: +e.target.value });
  panel.querySelector("[data-key=optimizer]").onchange = e => order("set", { optimizer: e.target.value });
  fill(panel.querySelector(".charts"));
  if (held) panel.querySelector(`[data-key="${held}"]`)?.focus();
}
function fill(box) {
  const wide = phone() ? innerWidth - 32 : 391, w = wide - 105, h = phone() ? 90 : 160, unseen = T.unseen, losses = T.points.map(p => p[1]), any = losses.filter(Number.isFinite);
  const part = (title, note, column_, o) => {
    const raw = T.points.filter(p => p[column_] !== null), soft = smooth(raw.map(p => p[column_]), 6).map((v, k) => [raw[k][0], v]);
    const series = [{ points: thin(raw.map(p => [p[0], p[column_]])), stroke: "var(--muted)", width: 1, opacity: 0.3 }, { points: thin(soft), stroke: "var(--ink)", label: "training" }, { points: unseen.filter(u => u[column_] !== null).map(u => [u[0], u[column_]]), stroke: "var(--neg)", dots: true, label: "unseen" }];
    return `<section class="part chart"><h2>${title}<span>${note}</span></h2><svg width="${wide}" height="${h + 20}" viewBox="-40 -12 ${wide} ${h + 20}" role="img" aria-label="${title} over the steps; its values stand in the table below">${chart(w, h, series, { x1: Math.max(T.step, 1), play: now(), until: T.at ?? undefined, ...o })}</svg></section>`;
  };
  const top = Math.max(...any, ...unseen.map(u => u[1]), 0.5), low = Math.max(1e-4, Math.min(...any, ...unseen.map(u => u[1]), top / 4)), lossTicks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 2.3, 10, 100].filter(t => t >= low && t <= top * 1.05), classes = T.points.some(p => p[2] !== null) || unseen.some(u => u[2] !== null);
  const shares = [...T.points.map(p => p[2]), ...unseen.map(u => u[2])].filter(v => v !== null), floor = shares.length ? Math.min(0.9, Math.floor(Math.min(...smooth(shares, 6)) * 10) / 10) : 0;
  const gap = [0.02, 0.05, 0.1, 0.2].find(g => (1 - floor) / g <= 5) ?? 0.25, ticks = Array.from({ length: Math.floor((1 - floor) / gap + 1e-9) + 1 }, (_, k) => 1 - k * gap);
  const at = smooth(losses, 6), index = Math.max(0, T.points.findLastIndex(p => p[0] <= now())), seen = unseen.findLast(u => u[0] <= now()), point = T.points[index], share = smooth(T.points.map(p => p[2] ?? 0), 6)[index];
  const row = (name, a, b) => `<tr><th scope="row">${name}</th><td>${a}</td><td>${b}</td></tr>`;
  box.innerHTML = part("Loss", `each batch, its mean${T.unseen_count ? `, and ${counted(T.unseen_count, "unseen image")}` : ""}`, 1, { log: true, y0: low, y1: top, ticks: lossTicks, say: t => t })
    + (classes ? part("Accuracy", "", 2, { y0: floor, y1: 1, ticks, say: t => `${Math.round(t * 100)} %` }) : "")
    + `<section class="part"><table class="lines many"><tr><th scope="col"><b>At step ${whole(now())}</b></th><th scope="col">training</th><th scope="col">unseen</th></tr>${row("loss", point ? num(at[index], 3) : "–", seen ? num(seen[1], 3) : "–")}${classes ? row("accuracy", point && point[2] !== null ? percent(share) : "–", seen && seen[2] !== null ? percent(seen[2]) : "–") : ""}</table></section>`
    + (T.at === null ? "" : `<p class="note"><span>You look back at step ${whole(T.at)}. Training stands at step ${whole(T.step)}.</span><button class="button" data-key="now">Back to now</button></p>`);
  const back = box.querySelector("[data-key=now]");
  if (back) back.onclick = () => scrub(null);
}

// ---------------------------------------------------------------- the dock: one filter through time
const loadFilm = latest(async () => {
  const n = filmOf(), name = n === null ? null : weightOf(n);
  if (!name || !T.moments.length) { T.film = null; return; }
  const v = view(n, `weight/${name}`), map = Math.min(S.map, v.lay.count - 1), steps = [...T.moments];
  const data = await binary("film", { weight: `${column(n).name.split(":")[0]}/${name}`, map, slice: sliceOf(n, `weight/${name}`) });
  T.film = { n, map, steps, data, frame: layout(v.shape.length === 4 ? [v.lay.H, v.lay.W, 1] : [data.length / steps.length]), key: `${n}|${map}|${S.slice}` };
  if (S.mode === "train") act.dock();
});
const filmOf = () => weightOf(S.focus) ? S.focus : S.model.columns.findIndex((c, n) => weightOf(n));
export function drawDock() {
  const dock = $("#dock"), f = T.film, n = filmOf(), held = document.activeElement?.dataset?.key;
  dock.replaceChildren();
  const box = dock.appendChild(el("div", "film"));
  if (n < 0) return box.append(el("p", "small muted", "This model has no weights."));
  const map = Math.min(S.map, view(n, `weight/${weightOf(n)}`).lay.count - 1);
  box.append(el("h2", "", `Filter ${map} of ${esc(column(n).name)}, from its first step<span>Click, or <kbd>,</kbd> <kbd>.</kbd></span>`));
  if (!f || f.key !== `${n}|${map}|${S.slice}`) { if (T.moments.length) loadFilm(); if (!f || f.n !== n) return box.append(el("p", "small muted", T.moments.length ? "" : "It begins with the first step.")); }
  const strip = box.appendChild(el("div", "thumbs")), room = Math.max(4, Math.floor((dock.clientWidth - 48) / 48)), skip = Math.ceil(f.steps.length / room), { H, W, index } = f.frame, size = f.data.length / f.steps.length, most = f.data.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
  f.steps.forEach((step, k) => {
    if (k % skip && k !== f.steps.length - 1 && step !== T.at) return;
    const b = strip.appendChild(el("button", step === nearest(now()) ? "on" : step > now() ? "later" : "")), canvas = b.appendChild(el("canvas")), s = 36 / Math.max(H, W);
    paint(canvas, H, W, (i, j) => index(0, i, j) < 0 ? null : linear(f.data[k * size + index(0, i, j)], most));
    canvas.style.width = W * s + "px"; canvas.style.height = H * s + "px";
    b.append(el("span", "", step)); b.dataset.key = `moment${step}`; b.setAttribute("aria-label", `step ${step}`); b.setAttribute("aria-pressed", step === now());
    b.onclick = () => scrub(step);
  });
  if (held) dock.querySelector(`[data-key="${held}"]`)?.focus();
}
export const titles = () => ({
  above: T.at === null ? T.step ? `what each layer makes of this picture, at step ${whole(T.step)}` : "what each layer makes of this picture" : `what each layer made of this picture at step ${whole(T.at)}`,
  below: ["Filters", "the weights behind each map above; of filters over several maps, one slice", 1],
});
