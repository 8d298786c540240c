// How an array of any shape lies on the page: as maps of H × W cells, and which place each cell is.
const HIGH = 64;   // numbers in a column of a vector

export function layout(shape, slice = 0) {
  const r = shape.length;
  if (r === 4) {                                                       // filters: rows, columns, channels, filters
    const [H, W, C, F] = shape, c = Math.min(slice, C - 1);
    return { count: F, H, W, slices: C, place: (m, i, j) => [i, j, c, m], index: (m, i, j) => ((i * W + j) * C + c) * F + m, at: p => ({ m: p[3], i: p[0], j: p[1] }), sees: p => p[2] === c };
  }
  if (r === 3) {
    const [H, W, C] = shape;
    return { count: C, H, W, place: (m, i, j) => [i, j, m], index: (m, i, j) => (i * W + j) * C + m, at: p => ({ m: p[2], i: p[0], j: p[1] }) };
  }
  return vectorLayout(shape, HIGH);
}
export function matrixLayout(shape) {                                  // a dense layer's weights: a square for each unit
  if (shape.length !== 2) return layout(shape);
  const [K, F] = shape, v = vectorLayout([K], Math.ceil(Math.sqrt(K)));
  return { ...v, count: F, place: (m, i, j) => [...v.place(0, i, j), m], index: (m, i, j) => { const k = v.index(0, i, j); return k < 0 ? -1 : k * F + m; }, at: p => ({ ...v.at([p[0]]), m: p[1] }) };
}
function vectorLayout(shape, high) {
  if (shape.length === 2) {
    const [H, W] = shape;
    return { count: 1, H, W, place: (m, i, j) => [i, j], index: (m, i, j) => i * W + j, at: p => ({ m: 0, i: p[0], j: p[1] }) };
  }
  const K = shape[0] ?? 1, H = Math.min(high, K), W = Math.ceil(K / H);
  return { count: 1, H, W, vector: K, place: (m, i, j) => shape.length ? [Math.min(K - 1, j * H + i)] : [], index: (m, i, j) => j * H + i < K ? j * H + i : -1, at: p => ({ m: 0, i: (p[0] ?? 0) % H, j: Math.floor((p[0] ?? 0) / H) }) };
}
export const flat = (shape, place) => place.reduce((at, i, axis) => at * shape[axis] + i, 0);

// Boxes of places: for each axis the first and the last. Which of a layer's inputs make them, which outputs use them.
const each = (box, f) => box.map(([a, b], axis) => f(a, b, axis));
const whole = shape => shape.map(n => [0, n - 1]);
const clip = (box, shape) => { const out = each(box, (a, b, k) => [Math.max(0, a), Math.min(shape[k] - 1, b)]); return out.every(([a, b]) => a <= b) ? out : null; };
const single = box => box.every(([a, b]) => a === b);
function reshaped(box, from, to) {
  if (!single(box)) return whole(to);
  let at = flat(from, box.map(([a]) => a));
  return [...to].reverse().map(n => { const i = at % n; at = Math.floor(at / n); return [i, i]; }).reverse();
}
const spread = (l, [a, b], k) => [a * l.strides[k] - l.padding[k], b * l.strides[k] - l.padding[k] + (l.size[k] - 1) * l.dilation[k]];
const gather = (l, [a, b], k) => [Math.ceil((a + l.padding[k] - (l.size[k] - 1) * l.dilation[k]) / l.strides[k]), Math.floor((b + l.padding[k]) / l.strides[k])];
function channels(l, [a, b], toInput) {
  if (l.channels === "all") return [0, (toInput ? l.from : l.to)[2] - 1];
  const D = l.channels === "depthwise" ? l.to[2] / l.from[2] : 1;
  return toInput ? [Math.floor(a / D), Math.floor(b / D)] : [a * D, b * D + D - 1];
}
export function up(l, box) {                                           // from outputs to the inputs that they are made of
  if (l.kind === "same") return box;
  if (l.kind === "reshape") return reshaped(box, l.to, l.from);
  if (l.kind === "window") { const move = l.transposed ? gather : spread; return clip([move(l, box[0], 0), move(l, box[1], 1), channels(l, box[2], true)], l.from); }
  if (l.kind === "last") return each(box, (a, b, k) => k < box.length - l.axes ? [a, b] : [0, l.from[k] - 1]);
  if (l.kind === "part") return clip(each(box, (a, b, k) => k === l.axis ? [a - l.offset, b - l.offset] : [a, b]), l.from);
  if (l.kind === "pad") return clip(each(box, (a, b, k) => k < 2 ? [a - l.corner[k], b - l.corner[k]] : [a, b]), l.from);
  if (l.kind === "upsample") return each(box, (a, b, k) => k < 2 ? [Math.floor(a / l.size[k]), Math.floor(b / l.size[k])] : [a, b]);
  if (l.kind === "global") return [[0, l.from[0] - 1], [0, l.from[1] - 1], box[0]];
  return whole(l.from);
}
export function down(l, box) {                                         // from inputs to the outputs that use them
  if (l.kind === "same") return box;
  if (l.kind === "reshape") return reshaped(box, l.from, l.to);
  if (l.kind === "window") { const move = l.transposed ? spread : gather; return clip([move(l, box[0], 0), move(l, box[1], 1), channels(l, box[2], false)], l.to); }
  if (l.kind === "last") return each(box, (a, b, k) => k < box.length - l.axes ? [a, b] : [0, l.to[k] - 1]);
  if (l.kind === "part") return each(box, (a, b, k) => k === l.axis ? [a + l.offset, b + l.offset] : [a, b]);
  if (l.kind === "pad") return clip(each(box, (a, b, k) => k < 2 ? [a + l.corner[k], b + l.corner[k]] : [a, b]), l.to);
  if (l.kind === "upsample") return each(box, (a, b, k) => k < 2 ? [a * l.size[k], b * l.size[k] + l.size[k] - 1] : [a, b]);
  if (l.kind === "global") return [box[2]];
  return whole(l.to);
}
export const dot = place => place.map(i => [i, i]);
export const isDot = single;
export const through = (links, box, step) => { const order = step === up ? [...links].reverse() : links; return order.reduce((b, link) => b && step(link, b), box); };
