// Activations: f(x), and its slope from x and f(x), as in tinyconv/kernels/reference/activation.py.
const ALPHA = 1.6732632423543772, SCALE = 1.0507009873554805, ROOT = Math.sqrt(2 / Math.PI);
const sigmoid = x => { const e = Math.exp(-Math.abs(x)); return (x >= 0 ? 1 : e) / (1 + e); };
const softplus = x => (x < 0 ? 0 : x) + Math.log1p(Math.exp(-Math.abs(x)));
const hard = x => x > 3 ? 1 : x < -3 ? 0 : (x + 3) / 6;
// The normal distribution function, by a series of positive terms.
function normal(x) {
  if (Math.abs(x) > 9) return x > 0 ? 1 : 0;
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) { term *= x * x / (2 * n + 1); sum += term; }
  return 0.5 + sum * density(x);
}
const density = x => Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
const bend = x => Math.tanh(ROOT * (x + 0.044715 * x ** 3));

export const CURVES = {
  relu: [x => x < 0 ? 0 : x, (x, y) => y <= 0 ? 0 : 1],
  leaky_relu: [(x, a) => x < 0 ? a * x : x, (x, y, a) => x > 0 ? 1 : a],
  bounded_relu: [(x, a, m, t) => x <= t ? (a ? a * (x - t) : 0) : x > m ? m : x, (x, y, a, m, t) => x < t ? a : x === t || x > m ? 0 : 1],
  elu: [(x, a) => x > 0 ? x : a * Math.expm1(x), (x, y, a) => y > 0 ? 1 : y + a],
  selu: [x => SCALE * (x > 0 ? x : ALPHA * Math.expm1(x)), (x, y) => x < 0 ? y + SCALE * ALPHA : SCALE],
  sigmoid: [sigmoid, (x, y) => y * (1 - y)],
  tanh: [Math.tanh, (x, y) => 1 - y * y],
  exponential: [Math.exp, (x, y) => y],
  softplus: [softplus, sigmoid],
  softsign: [x => x / (1 + Math.abs(x)), x => 1 / (1 + Math.abs(x)) ** 2],
  hard_sigmoid: [hard, x => Math.abs(x) < 3 ? 1 / 6 : 0],
  silu: [x => x * sigmoid(x), (x, y) => { const s = sigmoid(x); return s + y * (1 - s); }],
  hard_silu: [x => x * hard(x), x => hard(x) + (Math.abs(x) < 3 ? x / 6 : 0)],
  gelu: [x => x * normal(x), x => normal(x) + x * density(x)],
  approximate_gelu: [x => x * (1 + bend(x)) / 2, x => { const t = bend(x); return (1 + t + x * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * x * x)) / 2; }],
  mish: [x => x * Math.tanh(softplus(x)), x => { const t = Math.tanh(softplus(x)); return t + x * (1 - t * t) * sigmoid(x); }],
};
