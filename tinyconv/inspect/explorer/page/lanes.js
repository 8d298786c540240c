// Where each layer stands: one column after the other; the branches of a graph as rows, one below the other.
import { S, $, columns, column, phone } from "./state.js";

export const SLOT = 58;                      // a small map and the gap below it
const HEAD = 84, FOOT = 44;                  // of a row: name, scale and pager above; name and scale below
let N = 4, spots = [];

// N: maps in a column that has its place to itself.
export function arrange(maps) {
  N = maps;
  const inputs = columns().filter(c => c.input).length, depths = [];
  columns().forEach((c, n) => { depths[n] = c.input ? n : Math.max(inputs - 1, ...c.reads.map(r => depths[r])) + 1; });
  const most = phone() ? 1 : Math.max(1, Math.floor(Math.min((110 + SLOT * N) / (HEAD + SLOT), (34 + SLOT * N) / (FOOT + SLOT))));
  let col = 0;
  spots = [];
  for (const depth of [...new Set(depths)].sort((a, b) => a - b)) {
    const all = columns().map((c, n) => n).filter(n => depths[n] === depth);
    for (let k = 0; k < all.length; k += most) { const part = all.slice(k, k + most); part.forEach((n, lane) => { spots[n] = { col, lane, part }; }); col++; }
  }
}
export const width = () => 1 + Math.max(...spots.map(s => s.col));
export const colOf = n => spots[n].col;
export const alone = n => spots[n].part.length === 1;
// How many maps a layer shows at once: of rows, the one in focus gets what the others leave.
export function perPage(n = S.focus) {
  if (!spots[n] || alone(n)) return N;
  const { part } = spots[n], k = part.length, focused = part.includes(S.focus);
  if (focused && n !== S.focus) return 1;
  const room = (whole, own) => focused ? whole - (k - 1) * (own + SLOT) - own : whole / k - own;
  return Math.max(1, Math.floor(Math.min(room(110 + SLOT * N, HEAD), room(34 + SLOT * N, FOOT)) / SLOT));
}
// Put an element where row and column of its layer are; in a place that several share, into its own row there.
export function put(grid, n, row, e) {
  if (!alone(n)) laneOf(grid, n, row < 6 ? "above" : "below").append(e);
  else { e.style.gridRow = row; e.style.gridColumn = colOf(n) + 1; grid.append(e); }
  return e;
}
function laneOf(grid, n, where) {
  const { col, lane } = spots[n];
  let box = grid.querySelector(`.lanes.${where}[data-col="${col}"]`);
  if (!box) {
    box = grid.appendChild(document.createElement("div"));
    box.className = `lanes ${where}`; box.dataset.col = col;
    box.style.gridColumn = col + 1; box.style.gridRow = where === "above" ? "2 / 6" : "7 / 9";
  }
  if (!box.children[lane]) {
    const own = box.appendChild(document.createElement("div"));
    own.className = `lane ${n === S.focus ? "focus" : ""}`;
    own.style.setProperty("--band", perPage(n) * SLOT + "px");
    if (where === "below") { own.append(document.createElement("p")); own.firstChild.className = "small muted"; own.firstChild.textContent = column(n).name; }
  }
  return box.children[lane];
}
export function card(grid, n, rows, where) {
  if (!alone(n)) return;
  const e = grid.appendChild(document.createElement("div"));
  e.className = `card ${where}`; e.style.gridColumn = colOf(n) + 1; e.style.gridRow = rows;
}
export const headOf = n => $(`.head[data-n="${n}"]`);
// Whether the picture has to say which layer reads which: not where each reads the one before it.
export const branches = () => columns().some((c, n) => c.reads.length > 1 || c.reads.some(r => colOf(n) - colOf(r) > 1 && !column(r).input) || !alone(n));
