// Under a finger nothing can be seen: a glass above it shows the numbers there, as long as it lies on an enlarged map.
import { el } from "./net.js";
import { css, over } from "./colours.js";
import { cell } from "./numbers.js";

const REACH = 2, SIZE = 38, ABOVE = 34;      // cells to each side of the middle one; pixels of a cell; over the finger
let glass = null;

// v: a view of an array; m, i, j: the map and the place under the finger.
export function look(v, m, i, j, event) {
  glass ??= document.body.appendChild(el("div", "loupe"));
  glass.setAttribute("aria-hidden", "true");
  const side = (2 * REACH + 1) * SIZE, cells = [];
  for (let a = i - REACH; a <= i + REACH; a++) for (let b = j - REACH; b <= j + REACH; b++) {
    const inside = a >= 0 && b >= 0 && a < v.lay.H && b < v.lay.W, value = inside ? v.value(m, a, b) : null, colour = value === null ? null : v.colour(value);
    cells.push(`<span class="${a === i && b === j ? "hot" : ""}" ${colour ? `style="background:${css(colour)};color:${over(colour)}"` : ""}>${value === null ? "" : cell(value).replace("0.", ".")}</span>`);
  }
  glass.innerHTML = cells.join("");
  glass.style.left = `${Math.max(4, Math.min(innerWidth - side - 4, event.clientX - side / 2))}px`;
  const top = event.clientY - side - ABOVE;
  glass.style.top = `${top > 4 ? top : event.clientY + ABOVE}px`;
}
export function away() { glass?.remove(); glass = null; }
