// Three meanings, three families: ink says how much, blue and orange which sign; green is what you point at.
const RAMPS = {
  light: { ink: "#ebe7df #b4afa6 #77736d #3d3b39 #141518", neg: "#ebe7df #b4cbe2 #6d9ecb #2f6fae #0d3f77", pos: "#ebe7df #f1cba3 #e29a55 #c2651b #7a3404" },
  dark: { ink: "#262a31 #565b64 #8b8f97 #c3c4c6 #f6f3ec", neg: "#262a31 #2b4b71 #3f79b5 #79b1e6 #a9d0ff", pos: "#262a31 #5e4127 #a86a2c #e9a560 #ffcf8f" },
};
const STEPS = 256, BROKEN = [255, 0, 255], tables = {};

function table(theme, name) {
  return tables[theme + name] ??= Array.from({ length: STEPS }, (_, n) => {
    const stops = RAMPS[theme][name].split(" ").map(h => [1, 3, 5].map(k => parseInt(h.slice(k, k + 2), 16)));
    const t = n / (STEPS - 1) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(t));
    return stops[k].map((v, m) => Math.round(v + (stops[k + 1][m] - v) * (t - k)));
  });
}
export const theme = () => document.documentElement.dataset.theme;
const pick = (name, t) => table(theme(), name)[Math.round(Math.min(1, Math.max(0, t)) * (STEPS - 1))];
const guard = f => (v, max) => Number.isFinite(v) ? f(v, max || 1) : BROKEN;

export const ink = guard((v, max) => v < 0 ? pick("neg", -v / max) : pick("ink", v / max));
export const linear = guard((v, max) => pick(v < 0 ? "neg" : "pos", Math.abs(v) / max));
export const rooted = guard((v, max) => pick(v < 0 ? "neg" : "pos", Math.sqrt(Math.abs(v) / max)));
export const css = c => `rgb(${c})`;
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
export const over = c => light(c) > 0.179 ? "#000" : "#fff";

// get(i, j): a colour, or null for nothing there.
export function paint(canvas, H, W, get) {
  canvas.width = W; canvas.height = H;
  const context = canvas.getContext("2d"), image = context.createImageData(W, H), out = image.data;
  for (let i = 0, o = 0; i < H; i++) for (let j = 0; j < W; j++, o += 4) {
    const c = get(i, j);
    if (c) { out[o] = c[0]; out[o + 1] = c[1]; out[o + 2] = c[2]; out[o + 3] = 255; }
  }
  context.putImageData(image, 0, 0);
}
