// What the sliders do to a picture: shift, turn, blur (tinyconv/inspect/explorer/warp.py).
export function warped(x, [H, W, C = 1], { across = 0, down = 0, turn = 0, blur = 0 }) {
  const ground = x.reduce((a, b) => Math.min(a, b), 0);
  let out = x.map(v => v - ground);
  if (across || down || turn) out = moved(out, H, W, C, across, down, turn * Math.PI / 180);
  if (blur) out = blurred(blurred(out, W, C, C, H * W * C, blur), H, W * C, W * C, H * W * C, blur);
  return out.map(v => Math.fround(v + ground));
}
// Every pixel from the place that it comes from; between four pixels, their mean by nearness; 0 from outside.
function moved(x, H, W, C, across, down, angle) {
  const out = new Float64Array(x.length), cos = Math.cos(angle), sin = Math.sin(angle), my = (H - 1) / 2, mx = (W - 1) / 2;
  const at = (i, j, c) => i >= 0 && j >= 0 && i < H && j < W ? x[(i * W + j) * C + c] : 0;
  for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) {
    const b = j - mx - across, a = i - my - down, v = mx + cos * b + sin * a, u = my - sin * b + cos * a, i0 = Math.floor(u), j0 = Math.floor(v), p = u - i0, q = v - j0;
    for (let c = 0; c < C; c++) out[(i * W + j) * C + c] = (1 - p) * ((1 - q) * at(i0, j0, c) + q * at(i0, j0 + 1, c)) + p * ((1 - q) * at(i0 + 1, j0, c) + q * at(i0 + 1, j0 + 1, c));
  }
  return out;
}
// Along one axis, of n numbers `step` apart, with weights out to three sigma; zeros beyond the border.
function blurred(x, n, step, inner, size, sigma) {
  const reach = Math.ceil(3 * sigma), weights = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-0.5 * ((k - reach) / sigma) ** 2)), all = weights.reduce((a, b) => a + b), out = new Float64Array(size);
  for (let k = 0; k < size; k++) {
    const i = Math.floor(k / step) % n;
    for (let d = -reach; d <= reach; d++) if (i + d >= 0 && i + d < n) out[k] += x[k + d * step] * weights[d + reach] / all;
  }
  return out;
}
