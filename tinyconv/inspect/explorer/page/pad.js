// Pictures of one's own: drawn with mouse or finger on the input picture itself, or dropped in.
import { S } from "./state.js";

const BRUSH = 1.15;          // pixels of the model's picture
let act = {}, ink = null, last = null;
export const padHandlers = given => { act = given; };

export function tools(canvas, v) {
  const box = document.createElement("div");
  if (S.model.refuses) { box.className = "small muted refusal"; box.textContent = S.model.refuses; return box; }
  box.className = "tools";
  box.innerHTML = `<button data-key="draw" aria-pressed="${S.drawing}">${S.drawing ? "Done" : "Draw"}</button><button data-key="clear">Clear</button><button data-key="openfile">Open…</button><button data-key="pictures" class="phone-only">Pictures</button><input type="file" accept="image/*" hidden aria-label="Open a picture">`;
  const [draw, clear, open, pictures, file] = box.children;
  pictures.onclick = () => { S.pictures = true; act.redraw(); };
  draw.onclick = () => { S.drawing = !S.drawing; ink = S.drawing ? levels(v) : null; act.redraw(); };
  clear.onclick = () => { S.drawing = true; ink = new Uint8Array(v.shape.reduce((a, b) => a * b, 1)); send(); act.redraw(); };
  open.onclick = () => file.click();
  file.onchange = () => { if (file.files[0]) dropped(file.files[0]); };
  if (S.drawing) pad(canvas, v);
  return box;
}
// The picture that is shown, as bytes.
function levels(v) {
  const [low, high] = S.model.range, out = new Uint8Array(v.shape.reduce((a, b) => a * b, 1));
  const entry = v.entry;
  if (entry?.at !== undefined) for (let k = 0; k < out.length; k++) out[k] = Math.max(0, Math.min(255, Math.round((S.look.data[entry.at + k] - low) / (high - low) * 255)));
  return out;
}
// The canvas is drawn anew with every look, also under a pen that is down: so the window listens, not the canvas.
let board = null, shape = [];
function pad(canvas, v) {
  ink ??= levels(v);
  board = canvas; shape = v.shape;
  canvas.classList.add("pad");
  canvas.onclick = canvas.onpointerup = canvas.onpointermove = canvas.onpointerleave = null;
  canvas.onpointerdown = e => { e.preventDefault(); last = at(e); stroke(...last); send(); };
}
const at = e => { const r = board.getBoundingClientRect(); return [(e.clientX - r.left) / r.width * shape[1] - 0.5, (e.clientY - r.top) / r.height * shape[0] - 0.5]; };
function stroke(x, y) {
  const [H, W, C = 1] = shape, reach = BRUSH * Math.max(H, W) / 28;
  for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) {
    const level = Math.round(255 * Math.max(0, Math.min(1, reach + 0.5 - Math.hypot(i - y, j - x))));
    for (let c = 0; c < C; c++) { const k = (i * W + j) * C + c; if (level > ink[k]) ink[k] = level; }
  }
}
addEventListener("pointermove", e => {
  if (!last) return;
  const [x, y] = at(e), [a, b] = last, steps = Math.max(1, Math.ceil(Math.hypot(x - a, y - b) * 2));
  for (let s = 1; s <= steps; s++) stroke(a + (x - a) * s / steps, b + (y - b) * s / steps);
  last = [x, y]; send();
});
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => { if (last) { last = null; act.kept(ink); } });
export const encode = bytes => { let text = ""; for (let k = 0; k < bytes.length; k += 4096) text += String.fromCharCode(...bytes.subarray(k, k + 4096)); return btoa(text); };
function send() { act.mine(encode(ink)); }
export const stroking = () => last !== null;

// A picture file at the model's size: whole, with its border's brightness around it; light paper becomes dark ground.
export async function dropped(file) {
  if (S.model.refuses) return act.notice(S.model.refuses);
  let bitmap;
  try { bitmap = await createImageBitmap(file); } catch { return act.notice(`${file.name} is not a picture that this browser reads. Drop a PNG or a JPEG.`); }
  const [H, W, C = 1] = S.model.image, canvas = document.createElement("canvas"), context = canvas.getContext("2d", { willReadFrequently: true });
  canvas.width = W; canvas.height = H;
  const scale = Math.min(W / bitmap.width, H / bitmap.height) * (C === 1 ? 20 / 28 : 1), w = bitmap.width * scale, h = bitmap.height * scale;
  const edge = borderOf(bitmap);
  context.fillStyle = `rgb(${edge})`; context.fillRect(0, 0, W, H);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (W - w) / 2, (H - h) / 2, w, h);
  const data = context.getImageData(0, 0, W, H).data, out = new Uint8Array(H * W * C), grey = edge.reduce((a, b) => a + b) / 3;
  for (let k = 0; k < H * W; k++) {
    const rgb = [data[4 * k], data[4 * k + 1], data[4 * k + 2]];
    if (C === 3) out.set(rgb, 3 * k);
    else { const y = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]; out[k] = grey > 127 ? 255 - y : y; }
  }
  if (C === 1) stretch(out);
  ink = out; send(); act.kept(out);
}
function stretch(out) {
  const low = Math.min(...out), high = Math.max(...out);
  if (high > low) for (let k = 0; k < out.length; k++) out[k] = (out[k] - low) / (high - low) * 255;
}
function borderOf(bitmap) {
  const c = document.createElement("canvas"), g = c.getContext("2d", { willReadFrequently: true });
  c.width = c.height = 16;
  g.fillStyle = "#fff"; g.fillRect(0, 0, 16, 16); g.drawImage(bitmap, 0, 0, 16, 16);
  const d = g.getImageData(0, 0, 16, 16).data, sum = [0, 0, 0];
  for (let k = 0; k < 256; k++) if (k < 16 || k >= 240 || k % 16 === 0 || k % 16 === 15) for (let c2 = 0; c2 < 3; c2++) sum[c2] += d[4 * k + c2] / 60;
  return sum.map(Math.round);
}
