// Break it: one classic mistake at a time. What the gradients become, which tensor the check names, what the loss does.
import { S, $, column, stops, phone } from "./state.js";
import { post, packed, latest } from "./talk.js";
import { chart, smooth } from "./chart.js";
import { esc, num, percent, power } from "./numbers.js";
import { el } from "./net.js";
import { emptied } from "./sheet.js";
import { drawInspector as drawNumber } from "./inspector.js";

export const B = { id: "none", mistakes: [], steps: 0, batch: 0, busy: false, show: "with" };
let act = {}, timer = null, without = null;
const now = () => B.mistakes.find(m => m.id === B.id), none = () => B.mistakes.find(m => m.id === "none");
const wrong = m => (m?.rows ?? []).filter(r => r.wrong), isWrong = (m, layer) => wrong(m).some(r => r.layer === layer);

export const asks = () => ({ mistake: B.id });
export async function enter(given) {
  act = given;
  if (S.model.learns && stops()[S.stop][0] !== "backward") act.go(stops().findLastIndex(s => s[0] === "backward") - 1);
  await poll();
}
export const leave = () => { clearTimeout(timer); S.look && (S.look.plain = null); };
const poll = latest(async () => {
  Object.assign(B, await post("broken"));
  if (S.mode !== "break") return;
  act.panels(); act.redrawNet();
  clearTimeout(timer);
  if (B.busy) timer = setTimeout(poll, 250);
});
export async function choose(id) {
  B.id = B.id === id ? "none" : id;
  S.pin = null; S.free = true; S.explanation = null;
  act.panels(); act.look();
  try { await post("break", { mistake: B.id, ...(S.sample.index === undefined ? { ...S.sample, kind: undefined, truth: S.look.truth } : { index: S.sample.index }), ...S.slide }); }
  catch (error) { act.notice(error.message); }
  poll();
}
// With the mistake, without it, or the difference: the gradients of another look stand in for this one's.
export async function show(kind) {
  B.show = kind;
  if (kind !== "with" && without?.of !== S.look.look) { without = await packed("look", { ...act.body(), mistake: "none" }); without.of = S.look.look; }
  const look = S.look;
  look.own ??= { data: look.data, columns: look.columns };
  if (kind === "with") Object.assign(look, look.own);
  else if (kind === "without") Object.assign(look, { data: without.data, columns: without.columns });
  else {
    const data = look.own.data.map((v, k) => v - without.data[k]), columns = look.own.columns.map((c, n) => {
      const g = c.gradient;
      if (g?.at === undefined) return c;
      const part = data.subarray(g.at, g.at + g.shape.reduce((a, b) => a * b, 1));
      look.own.columns.forEach(o => { if (o.value.at !== undefined) data.set(look.own.data.subarray(o.value.at, o.value.at + o.value.shape.reduce((a, b) => a * b, 1)), o.value.at); });
      return { ...c, gradient: { ...g, min: part.reduce((a, v) => Math.min(a, v), 0), max: part.reduce((a, v) => Math.max(a, v), 0) } };
    });
    Object.assign(look, { data, columns });
  }
  S.pin = null; S.free = true;
  act.render();
}
export const looked = () => { if (B.show !== "with") show(B.show); };

// ---------------------------------------------------------------- over the network
export const titles = () => ({
  above: "what each layer puts out", below: ["Gradients", B.show === "difference" ? "what the mistake adds to each gradient; colour grows with the root" : "how much the loss rises per unit of each number, as it is computed; colour grows with the root", -1],
});
export function note(n) {
  const m = now();
  if (B.id === "none" || !m?.rows) return m?.rows === null && B.busy ? '<span class="muted">…</span>' : '<span class="muted">&nbsp;</span>';
  const layer = column(n).name, mine = m.rows.filter(r => r.layer === layer);
  if (!mine.length) return '<span class="muted">&nbsp;</span>';
  if (!isWrong(m, layer)) return '<span class="muted">✓ agrees</span>';
  return `<span class="bad"><b>✗ ${firstWrong(m)?.layer === layer ? "from here" : "wrong"}</b></span>`;
}
const firstWrong = m => wrong(m)[0];
export function switches(title) {
  const seg = title.appendChild(el("div", "seg"));
  for (const [id, text] of [["with", "with the mistake"], ["without", "without"], ["difference", "difference"]]) {
    const b = seg.appendChild(el("button", id === B.show ? "on" : "", text));
    b.dataset.key = `show-${id}`; b.setAttribute("aria-pressed", id === B.show); b.onclick = () => show(id);
  }
}

// ---------------------------------------------------------------- the panel
const named = m => {
  if (m.id === "none") return m.rows ? '<span class="muted">all agree</span>' : "";
  if (!m.rows) return m.error ? '<span class="bad">failed</span>' : m.applies ? "" : '<span class="muted">not in this model</span>';
  return wrong(m).length ? `<span class="bad"><b>✗ ${esc(firstWrong(m).layer)}</b></span>` : '<span class="muted">nothing</span>';
};
export function drawInspector() {
  const panel = $("#inspector");
  if (S.hover || S.pin?.kept) return drawNumber();
  const m = now(), top = panel.scrollTop, held = document.activeElement?.dataset?.key;
  const rows = B.mistakes.map(x => `<tr class="${x.id === B.id ? "on" : ""}"><td>${x.id === "none" ? "" : `<button class="switch" role="switch" aria-checked="${x.id === B.id}" data-key="break-${x.id}" data-id="${x.id}" aria-label="${esc(x.title)}" ${x.applies ? "" : "disabled"}></button>`}</td><td>${esc(x.title)}</td><td>${x.accuracy === null || x.accuracy === "nan" ? x.state === "running" ? '<span class="muted">…</span>' : "" : percent(x.accuracy)}</td><td class="small">${named(x)}</td></tr>`).join("");
  emptied().insertAdjacentHTML("beforeend", `<section class="top"><h1>Break it</h1><p class="muted">Switch on one mistake. A copy of the network computes with it, and the check compares its gradients with central differences.</p></section>
    <section class="part"><table class="breaks"><tr><th></th><th scope="col">mistake</th><th scope="col">accuracy</th><th scope="col">the check names</th></tr>${rows}</table></section>${m && B.id !== "none" ? check(m) + line(m) : ""}`);
  panel.querySelectorAll(".switch").forEach(b => { b.onclick = () => choose(b.dataset.id); });
  panel.scrollTop = top;
  if (held) panel.querySelector(`[data-key="${held}"]`)?.focus({ preventScroll: true });
}
function check(m) {
  if (m.error) return `<section class="part"><p class="bad">${esc(m.error)}</p></section>`;
  if (!m.rows) return '<section class="part"><h2>The check</h2><p class="muted">Nudging numbers of every tensor…</p></section>';
  const layers = [...new Set(m.rows.map(r => r.layer))], kinds = [["value", w => ["output", "z", "input"].includes(w.slice(1))], ["kernel", w => w.includes("kernel")], ["others", w => !w.includes("kernel") && !["output", "z", "input"].includes(w.slice(1))]];
  const cell = r => !r ? "<td></td>" : r.wrong ? `<td class="bad"><b>✗ ${num(r.error, 1)}</b></td>` : `<td>✓ ${r.error ? power(r.error, 0) : "0"}</td>`;
  const worst = list => list.reduce((a, b) => !a || b.wrong > a.wrong || b.wrong === a.wrong && b.error > a.error ? b : a, null);
  const body = layers.map(l => `<tr class="${firstWrong(m)?.layer === l ? "strong" : ""}"><th scope="row">${esc(l)}</th>${kinds.map(([, is]) => cell(worst(m.rows.filter(r => r.layer === l && is(r.what))))).join("")}</tr>`).join("");
  const first = firstWrong(m), said = first ? `<p>Coming back from the loss, <b>${esc(first.layer)}</b> is the first that is wrong. At ${esc(first.what)} (${first.place.join(", ")}) the chain rule says <b>${num(first.gradient)}</b>, nudging says <b>${num(first.slope)}</b>.</p>` : "<p>Every gradient is right: a check of gradients cannot see this mistake.</p>";
  return `<section class="part"><h2>The check<span>largest error, as a share of the largest gradient</span></h2><table class="lines many"><tr><th scope="col">gradients of</th><th scope="col">values</th><th scope="col">kernel</th><th scope="col">bias, others</th></tr>${body}</table>${said}</section>`;
}
const line = m => !m.line ? "" : `<section class="part"><h2>The line<span>${esc(m.line.file.replace("tinyconv/", ""))}</span></h2><div class="source"><div class="mark"><i>${m.line.line}</i><code>${esc(m.line.right)}</code></div><div class="minus"><i></i><code>${esc(m.line.wrong)}</code></div></div></section>`;

// ---------------------------------------------------------------- the dock: the loss with and without
export function drawDock() {
  const dock = $("#dock"), m = now(), base = none();
  dock.replaceChildren();
  const lead = dock.appendChild(el("div", "lead", `<h2>Loss, ${B.steps || ""} steps of ${B.batch || ""}</h2><p class="small muted">${esc(B.id === "none" ? "A fresh network, with a mistake and without." : m?.remark ?? "")}</p>`));
  const w = Math.max(100, dock.clientWidth - 48 - (phone() ? 0 : 32 + 210) - 150), all = [...(base?.losses ?? []), ...(m?.losses ?? [])].filter(Number.isFinite);
  if (!all.length) return lead.append(el("p", "small muted", B.busy ? "It is being trained…" : ""));
  const low = Math.max(0.01, Math.min(...all)), top = Math.max(1.1 * low, Math.min(Math.max(...all), 10)), points = x => smooth((x?.losses ?? []).map(v => Number.isFinite(v) ? v : top), 3).map((v, k) => [k + 1, v]);
  const series = [{ points: points(base), stroke: "var(--muted)", label: "without" }, ...(B.id === "none" ? [] : [{ points: points(m), stroke: "var(--bad)", label: "with the mistake" }])];
  dock.append(el("div", "chart", `<svg width="${w + 140}" height="92" viewBox="-32 -6 ${w + 140} 92" role="img" aria-label="loss: without ${num(base?.losses.at(-1) ?? 0, 2)}, with ${num(m?.losses.at(-1) ?? 0, 2)} at the end">${chart(w, 76, series, { x1: B.steps, y0: low, y1: top, log: true, ticks: [0.1, 0.3, 1, 2.3, 5].filter(t => t >= low && t <= top), say: t => t })}</svg>`));
}
