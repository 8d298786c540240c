// The page: what happens when something is pointed at, pressed or answered.
import { S, $, column, shown, readHash, writeHash, stops, settle, sameNumber } from "./state.js";
import { post, postNumbers, packed, latest, watch } from "./talk.js";
import { drawNet, handlers, measure, pageOf, shownBand } from "./net.js";
import { lower, view, kindOf, viewHandlers } from "./views.js";
import { perPage } from "./lanes.js";
import { drawPath, follow } from "./path.js";
import { drawBar } from "./bar.js";
import { drawInspector, inspectorHandlers, mainGroup, placeWords, valueOf } from "./inspector.js";
import { drawDock, dockHandlers, list, keepMine } from "./dock.js";
import { padHandlers, dropped, stroking } from "./pad.js";
import { listen, help } from "./keys.js";
import { sheetHandlers } from "./sheet.js";
import { MODES, offered } from "./modes.js";
import { esc, num, whole, percent } from "./numbers.js";

// ---------------------------------------------------------------- drawing
function drawHead() {
  const m = S.model, facts = [`${whole(m.parameters)} parameters`, m.step ? `step ${whole(m.step)}` : "never trained"];
  if (m.accuracy !== undefined && m.accuracy !== null) facts.push(`reads ${percent(m.accuracy)} of the test images`);
  const tabs = offered().map(id => `<button role="tab" data-key="tab-${id}" data-mode="${id}" aria-selected="${id === S.mode}">${MODES[id].name}</button>`).join("");
  $("#head").innerHTML = `<p class="brand">tinyconv<span>${esc(m.name)}</span></p><div class="tabs" role="tablist">${tabs}</div><p class="summary">${facts.join(" · ")}</p><button class="icon" data-key="keys" aria-label="Keys">?</button><button class="icon" data-key="theme" aria-label="Light or dark"><svg width="16" height="16" aria-hidden="true"><circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.5"/><path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z" fill="currentColor"/></svg></button>`;
  $("#head").querySelectorAll("[data-mode]").forEach(b => { b.onclick = () => act.enter(b.dataset.mode); });
  $("[data-key=keys]").onclick = help;
  $("[data-key=theme]").onclick = act.theme;
}
let held = null;                             // what has the focus keeps it when it is drawn anew
addEventListener("focusin", e => { held = e.target.dataset?.key ?? null; });
function keepFocus() { if (held && document.activeElement === document.body) document.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus({ preventScroll: true }); }
// A button that is pressed stays until it is let go, else the click would be lost: what is drawn meanwhile comes after.
let pressed = false, late = false;
const unlessPressed = draw => () => { if (pressed) late = true; else draw(); };
addEventListener("pointerdown", e => { pressed = !!e.target.closest?.("button"); }, true);
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => setTimeout(() => { pressed = false; if (late) { late = false; render(); } }), true);
const render = unlessPressed(() => {
  document.body.dataset.mode = S.mode;
  document.body.classList.toggle("tall", S.sheet);
  document.body.classList.toggle("pictures", S.pictures);
  measure(); follow();
  drawHead(); (MODES[S.mode].drawBar ?? drawBar)(act.go); drawNet(); (MODES[S.mode].drawDock ?? drawDock)(); inspect(); drawPath();
  writeHash();
  keepFocus();
});
const head = unlessPressed(drawHead);
const dock = unlessPressed(() => (MODES[S.mode].drawDock ?? drawDock)());
const inspect = unlessPressed(() => { (MODES[S.mode].drawInspector ?? drawInspector)(); say(); });
const redraw = unlessPressed(() => { drawNet(); drawPath(); keepFocus(); });
const panels = unlessPressed(() => { MODES[S.mode].drawBar?.(); MODES[S.mode].drawDock?.(); inspect(); keepFocus(); });

// ---------------------------------------------------------------- looking
const body = () => ({ ...S.sample, index: S.sample.index ?? S.sample.beside, beside: undefined, kind: undefined, ...S.slide, ...MODES[S.mode].asks?.() });
const look = latest(async () => {
  const slow = setTimeout(() => document.body.classList.add("stale"), 100);
  try { S.look = await packed("look", body()); }
  catch (error) { notice(error.message); throw error; }
  finally { clearTimeout(slow); document.body.classList.remove("stale"); }
  known.clear();
  S.open = null;
  again(); render(); MODES[S.mode].looked?.();
});
function again() { choose(); if (!stroking()) explain(); }
// At every stop the largest number of the open map is chosen, so that the panel is never empty.
function choose() {
  if (S.mode === "train" || S.mode === "break" && !S.pin?.kept) { S.pin = null; return; }
  if (S.pin?.kept || !S.look || S.free) return;
  const [kind] = stops()[S.stop], n = S.focus, band = kind === "backward" ? "gradient" : kind === "update" ? lower(n) : "value", v = band && view(n, band);
  if (!v?.entry) { S.pin = null; return; }
  const map = Math.min(S.map, v.lay.count - 1);
  let best = -1, place = null;
  if (kind === "loss" && S.look.truth !== null && S.look.truth !== undefined && S.model.question === "classes") place = [S.look.truth];
  else for (let i = 0; i < v.lay.H; i++) for (let j = 0; j < v.lay.W; j++) { const x = v.value(map, i, j); const size = Number.isFinite(x) ? Math.abs(x) : Infinity; if (x !== null && size > best) { best = size; place = v.lay.place(map, i, j); } }
  S.pin = place && { band, col: n, place };
}
const known = new Map();                     // explanations of this look
const keyOf = p => `${S.look.look}|${p.band}|${p.col}|${p.place}`;
const explain = latest(async () => {
  const p = shown();
  if (!p || !S.look) { S.explanation = S.measured = null; return; }
  if (S.mode === "train") return;
  const loss = stops()[S.stop][0] === "loss" && !S.hover && !S.pin?.kept, key = loss ? "loss" : keyOf(p);
  if (!known.has(key)) known.set(key, await (loss ? explainLoss() : explainNumber(p)));
  if (!loss && !sameNumber(shown(), p)) return explain();
  const found = known.get(key);
  S.explanation = found.explanation; S.measured = found.measured;
  if (!S.hover && S.open === null && !loss) { S.open = mainGroup(S.explanation); if (S.open !== null) { const before = JSON.stringify(S.pages); follow(); if (JSON.stringify(S.pages) !== before) redraw(); else drawPath(); } }
  inspect();
  if (p.band === "gradient" && !S.hover && !found.measured) await nudge(p, found);
});
async function explainNumber(p) {
  const c = column(p.col), what = S.look.columns[p.col][p.band].what, ask = { look: S.look.look, layer: c.name, what, place: p.place };
  const explanation = await postNumbers("explain", ask);
  if (p.band === "value" && c.z && c.activation === "softmax") explanation.score = await postNumbers("explain", { ...ask, what: "z" });
  return { explanation };
}
const explainLoss = async () => ({ explanation: { ...await postNumbers("explain", { look: S.look.look, ...S.look.loss.name && { layer: S.look.loss.name, what: "losses", place: [] } }), loss: true } });
async function nudge(p, found) {
  try { found.measured = await post("measure", { look: S.look.look, layer: column(p.col).name, what: S.look.columns[p.col].gradient.what, place: p.place }); }
  catch (error) { found.measured = { error: error.message }; }
  if (sameNumber(shown(), p)) { S.measured = found.measured; inspect(); }
}
let spoken = "";
function say() {
  const p = shown(), e = S.explanation;
  if (!p || !S.look) return;
  const text = e ? `${placeWords(p)}: ${num(e.value)}. ${e.sentences[0] ?? ""}` : "";
  if (!S.hover && text !== spoken) { spoken = text; $("#said").textContent = text.replace(/&#\d+;/g, ""); }
  const cell = $(`#cell-${p.band.split("/")[0]}`);
  if (cell) cell.textContent = `${placeWords(p)}: ${num(valueOf(p) ?? 0)}`;
}

// ---------------------------------------------------------------- what can be done
const act = {
  redraw: render, head, dock, panels, notice,
  hover(p) {
    if (p && sameNumber(p, S.hover) || !p && !S.hover) return;
    S.hover = p;
    drawPath(); explain();
  },
  pin(p, exact) {
    const first = S.focus !== p.col;
    S.hover = null; S.free = false; S.open = null; S.turned.clear();
    const v = view(p.col, p.band), at = v.lay.at(p.place);
    S.focus = p.col; S.map = v.lay.count > 1 ? at.m : S.map;
    if (first && !exact && kindOf(p.col) === "maps") { S.pin = null; choose(); } else S.pin = { ...p, kept: true };
    S.tiles = false; S.explanation = null; explain(); render();
  },
  open(n, m) { S.focus = n; S.map = m; S.pin = S.hover = null; S.open = null; S.free = false; S.tiles = false; S.turned.clear(); again(); render(); },
  focus(n) { S.focus = n; S.map = Math.min(S.map, view(n, "value").lay.count - 1); S.pin = S.hover = null; S.open = null; S.free = false; S.tiles = false; S.turned.clear(); again(); render(); },
  page(n, to) { S.pages[n] = to; S.turned.add(n); redraw(); },
  tiles(n) { const on = S.tiles && S.focus === n; S.focus = n; S.tiles = !on; again(); render(); },
  channel(id) { S.open = id; S.slice = id; render(); },
  go(n) {
    S.stop = Math.max(0, Math.min(stops().length - 1, n));
    settle();
    S.map = Math.min(S.map, view(S.focus, "value").lay.count - 1);
    S.pin = S.hover = S.open = S.band = null; S.free = S.tiles = false; S.turned.clear(); S.explanation = null;
    again(); render();
  },
  turn(way) { const n = S.focus, lay = view(n, "value").lay; if (lay.count > perPage()) act.page(n, Math.max(0, Math.min(lay.count - perPage(), pageOf(n) + way * perPage()))); },
  map(way) { const count = view(S.focus, "value").lay.count; act.open(S.focus, Math.max(0, Math.min(count - 1, S.map + way))); },
  move(i, j) {
    if (!S.pin) return;
    const v = view(S.pin.col, S.pin.band), at = v.lay.at(S.pin.place), to = { i: at.i + i, j: at.j + j };
    if (to.i < 0 || to.j < 0 || to.i >= v.lay.H || to.j >= v.lay.W || v.lay.index(at.m, to.i, to.j) < 0) return;
    S.pin = { ...S.pin, place: v.lay.place(at.m, to.i, to.j), kept: true };
    S.hover = null; explain(); drawPath(); writeHash();
  },
  unpin() { if (S.hover) return act.hover(null); S.free = true; S.pin = null; S.explanation = null; S.tiles = false; if (S.drawing) { S.drawing = false; } render(); },
  band() { S.band = shownBand() === "above" ? "below" : "above"; render(); },
  theme() { const root = document.documentElement; root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; S.themed = true; render(); },
  sheet() { S.sheet = !S.sheet; render(); },
  sample(sample) { S.sample = sample; S.drawing = false; S.pictures = false; S.slide = { across: 0, down: 0, turn: 0, blur: 0 }; dock(); look(); },
  slid() { look(); },
  mine(pixels) { S.sample = { pixels, beside: S.sample.index ?? S.sample.beside }; S.slide = { across: 0, down: 0, turn: 0, blur: 0 }; look(); },
  kept(bytes) { keepMine(bytes); },
  enter(mode) { if (S.mode === mode) return; const leave = MODES[S.mode].leave; S.mode = mode; leave?.(); S.hover = S.explanation = null; S.free = false; S.band = null; S.drawing = false; S.pin = null; if (mode !== "train") settle(); MODES[mode].enter?.(act); look(); render(); },
  look: () => look(), render, again,
  body, redrawNet: redraw,
  relist() { list(); head(); },
  mode: e => MODES[S.mode].key?.(e),
};
function notice(text) { const p = $("#notice"); p.textContent = text; p.hidden = !text; if (text && !text.startsWith("The program")) setTimeout(() => { if (p.textContent === text) p.hidden = true; }, 6000); }

async function start() {
  watch(() => notice("The program ended. What you see is the last state."), () => { if ($("#notice").textContent.startsWith("The program")) notice(""); });
  S.model = await post("model");
  S.list = S.model.samples ? S.model.labelled ? "worst" : "test" : "mine";
  S.map = 0;
  S.fresh = !location.hash.includes("sample=") && S.list === "worst";       // begin with the worst mistake
  for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => { S.fresh = false; }, { once: true });
  readHash();
  if (!offered().includes(S.mode)) S.mode = "look";
  S.drawing = !S.model.samples && !!S.model.image && !S.model.refuses;
  [handlers, viewHandlers, inspectorHandlers, dockHandlers, padHandlers, sheetHandlers].forEach(give => give(act));
  listen(act);
  MODES[S.mode].enter?.(act);
  addEventListener("resize", () => { render(); if (S.mode === "look") list(); });
  addEventListener("hashchange", () => { readHash(); S.explanation = null; again(); render(); });
  if (S.model.image) {
    addEventListener("dragover", e => { e.preventDefault(); document.body.classList.add("dropping"); });
    addEventListener("dragleave", e => { if (!e.relatedTarget) document.body.classList.remove("dropping"); });
    addEventListener("drop", e => { e.preventDefault(); document.body.classList.remove("dropping"); if (e.dataTransfer.files[0]) dropped(e.dataTransfer.files[0]); });
  }
  render(); look(); list();
  document.body.dataset.ready = "yes";
}
start().catch(error => { notice(error.message); console.error(error); });
