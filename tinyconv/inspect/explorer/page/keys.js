// Everything by keyboard alone.
import { S, $ } from "./state.js";
const KEYS = [["← →", "a stop back, a stop on"], ["Shift + arrows", "the pinned number, by one place"], ["[ ]", "a page of maps back, on"], ["PgUp PgDn", "a map back, on"], ["Enter", "on a layer: look at it"], ["Esc", "unpin"], ["Space", "train: go on, or pause"], ["S", "train: one step"], [", .", "train: a moment back, on"], ["B", "the other band, where only one fits"], ["D", "light or dark"], ["?", "this list"]];
export function help() {
  const d = $("#help");
  d.innerHTML = `<h1 id="help-title">Keys</h1><dl>${KEYS.map(([k, t]) => `<dt>${k.split(" ").map(x => x === "+" || x === "arrows" ? x : `<kbd>${x}</kbd>`).join(" ")}</dt><dd>${t}</dd>`).join("")}</dl><form method="dialog"><button class="button">Close</button></form>`;
  d.showModal();
}
export function listen(act) {
  addEventListener("keydown", e => {
    const tag = e.target.tagName, typing = tag === "SELECT" || tag === "INPUT";
    if (e.ctrlKey || e.altKey || e.metaKey || $("#help").open) return;
    if (typing && (e.key.startsWith("Arrow") || e.key.startsWith("Page"))) return;      // arrows inside a slider stay its own
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
    if (move && e.shiftKey) act.move(...move);
    else if (e.key === "ArrowRight") act.go(S.stop + 1);
    else if (e.key === "ArrowLeft") act.go(S.stop - 1);
    else if (e.key === "[" || e.key === "]") act.turn(e.key === "]" ? 1 : -1);
    else if (e.key === "PageUp" || e.key === "PageDown") act.map(e.key === "PageDown" ? 1 : -1);
    else if (e.key === "Escape") act.unpin();
    else if (e.key === "b" || e.key === "B") act.band();
    else if (e.key === "d" || e.key === "D") act.theme();
    else if (e.key === "?") help();
    else return act.mode?.(e);
    e.preventDefault();
  });
}
