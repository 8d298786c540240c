// Below the network: pictures to choose from, and what can be done to the one that is shown.
import { S, $ } from "./state.js";
import { el } from "./net.js";
import { esc, range, whole } from "./numbers.js";
import { paint, ink } from "./colours.js";
import { post } from "./talk.js";
import { encode } from "./pad.js";

const SLIDERS = [["across", "Shift across", "px"], ["turn", "Turn", "°"], ["down", "Shift down", "px"], ["blur", "Blur", "px"]];
let act = {};
export const dockHandlers = given => { act = given; };
const room = () => Math.max(4, Math.min(40, Math.floor(((innerWidth <= 720 ? innerWidth - 32 : $("#dock").clientWidth * 0.62) - 4) / 50)));
const limits = () => { const [H, W] = S.model.image; return { across: [-W / 4, W / 4, 0.5], down: [-H / 4, H / 4, 0.5], turn: [-90, 90, 1], blur: [0, Math.max(H, W) / 10, 0.1] }; };

let asked = "";
export async function list() {                                   // the list as it is now; drawn when it has come
  if (S.list === "mine" || !S.model.samples) { asked = ""; return act.dock(); }
  const want = { list: S.list, from: S.from, count: room() }, key = JSON.stringify(want);
  if (asked === key && S.listed?.ready) return act.dock();
  try { S.listed = await post("samples", want); asked = key; } catch { return; }
  if (S.listed.accuracy !== null) { S.model.accuracy = S.listed.accuracy; act.head(); }
  if (!S.listed.ready) setTimeout(list, 500);
  if (S.fresh && S.list === "worst" && S.listed.ready) { S.fresh = false; if (S.listed.items.length) return act.sample({ index: S.listed.items[0].index }); }
  act.dock();
}
export function drawDock() {
  const dock = $("#dock"), keep = document.activeElement?.dataset?.key;
  dock.replaceChildren();
  if (S.model.samples || S.model.image) dock.append(lists());
  if (S.model.image && !S.model.refuses) dock.append(sliders());
  if (keep) dock.querySelector(`[data-key="${keep}"]`)?.focus();
}
function lists() {
  const box = el("div", "lists"), tabs = box.appendChild(el("div", "seg")), mine = S.list === "mine";
  const names = [...(S.model.labelled && S.model.samples ? [["worst", "Worst mistakes"]] : []), ...(S.model.samples ? [["test", S.model.image ? "Test images" : "Samples"]] : []), ...(S.model.image ? [["mine", "Mine"]] : [])];
  for (const [id, text] of names) {
    const b = tabs.appendChild(el("button", id === S.list ? "on" : "", text));
    b.dataset.key = `list-${id}`; b.setAttribute("aria-pressed", id === S.list);
    b.onclick = () => { S.list = id; S.from = 0; list(); };
  }
  const thumbs = el("div", "thumbs"), n = room(), total = mine ? S.mine.length : S.listed?.total ?? 0;
  if (total > n) {
    const p = tabs.appendChild(el("span", "pager", `<button data-key="earlier" aria-label="earlier pictures">‹</button><span>${range(S.from + 1, Math.min(total, S.from + n))} of ${whole(total)}</span><button data-key="later" aria-label="later pictures">›</button>`));
    const [back, , on] = p.children, go = by => { S.from = Math.max(0, Math.min(total - 1, S.from + by)); list(); };
    back.disabled = S.from === 0; on.disabled = S.from + n >= total;
    back.onclick = () => go(-n); on.onclick = () => go(n);
  }
  if (mine) S.mine.slice(S.from, S.from + n).forEach((one, k) => thumbs.append(thumb(one.shape, one.pixels, one.name, S.sample === one.sample, `mine${k}`, () => act.sample(one.sample))));
  else (S.listed?.items ?? []).forEach((item, k) => {
    const t = item.truth === null ? null : S.model.names[item.truth], a = item.answer === null ? null : S.model.names[item.answer];
    const label = t === null ? `${item.index}` : a === null || t === a ? t : `${t} → ${a}`, picture = S.listed.pictures?.[k];
    thumbs.append(thumb(picture?.shape, picture?.pixels, label, S.sample.index === item.index, `thumb${k}`, () => act.sample({ index: item.index }), t !== null && a !== null && t !== a));
  });
  if (!thumbs.children.length) thumbs.append(el("p", "small muted", mine ? S.model.refuses || "Draw a digit on the picture, or drop a file anywhere." : S.listed && !S.listed.ready ? "The model is reading the test images…" : S.list === "worst" ? "No mistake among the test images." : ""));
  box.append(thumbs);
  const close = box.appendChild(el("button", "button phone-only", "Close"));
  close.onclick = () => { S.pictures = false; act.redraw(); };
  return box;
}
function thumb(shape, pixels, label, on, key, choose, wrong) {
  const b = el("button", on ? "on" : "");
  b.dataset.key = key;
  if (shape) {
    const canvas = b.appendChild(el("canvas")), [H, W, C = 1] = shape, s = 40 / Math.max(H, W);
    paint(canvas, H, W, (i, j) => C === 3 ? [0, 1, 2].map(c => pixels[(i * W + j) * C + c]) : ink(pixels[(i * W + j) * C], 255));
    canvas.style.width = W * s + "px"; canvas.style.height = H * s + "px";
  }
  b.append(el("span", "", esc(label)));
  b.setAttribute("aria-label", wrong ? `${label.replace(" → ", ", read as ")}` : label); b.setAttribute("aria-pressed", on);
  b.onclick = choose;
  return b;
}
function sliders() {
  const box = el("div", "sliders"), most = limits();
  for (const [id, text, unit] of SLIDERS) {
    const [low, high, step] = most[id], label = el("label", "slider", `<span>${text}</span><output>${said(S.slide[id], unit)}</output><input type="range" min="${low}" max="${high}" step="${step}" value="${S.slide[id]}">`);
    const input = label.querySelector("input"), out = label.querySelector("output"), set = v => { S.slide[id] = v; out.textContent = said(v, unit); act.slid(); };
    input.dataset.key = `slide-${id}`; input.setAttribute("aria-label", text); input.setAttribute("aria-valuetext", said(S.slide[id], unit));
    input.oninput = () => { input.setAttribute("aria-valuetext", said(+input.value, unit)); set(+input.value); };
    input.ondblclick = () => { input.value = 0; set(0); };
    box.append(label);
  }
  return box;
}
const said = (v, unit) => `${String(v).replace("-", "−")}${unit === "°" ? "" : " "}${unit}`;
export function keepMine(bytes) {
  const sample = { pixels: encode(bytes), kind: "mine", beside: S.sample.index ?? S.sample.beside };
  S.mine.unshift({ sample, shape: S.model.image.length === 2 ? [...S.model.image, 1] : S.model.image, pixels: [...bytes], name: `${S.mine.length + 1}` });
  S.mine.splice(40);
  S.sample = sample; S.list = "mine"; S.from = 0;
  list(); act.look();
}
