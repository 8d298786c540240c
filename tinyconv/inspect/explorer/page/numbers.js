// Numbers as text. U+2212 for minus; digits enough to tell neighbours apart, and no more.
const MINUS = "−", SUPER = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const tidy = text => text.replace("-", MINUS);

export const esc = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);

export function power(value, digits = 2) {
  const [mantissa, exponent] = value.toExponential(digits).split("e");
  const raised = [...exponent.replace("+", "")].map(c => c === "-" ? "⁻" : SUPER[+c]).join("");
  return `${tidy(mantissa)} × 10${raised}`;
}
// A number on its own, or in a sum: 0.4824, −0.22011, 3.1 × 10⁻⁷.
export function num(value, digits = 4) {
  if (typeof value !== "number") return String(value);      // "nan", "inf"
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return tidy(String(value));
  if (size < 0.5 * 10 ** -digits * 100) return size >= 1e-3 ? tidy(value.toFixed(digits + 2)) : power(value);
  return size >= 1e6 ? power(value) : tidy(value.toFixed(size >= 1000 ? 1 : digits));
}
export const signed = (value, digits) => (typeof value === "number" && value > 0 ? "+" : "") + num(value, digits);
// On a scale or a cell, where there is little room.
export function short(value) {
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 5e-4) return tidy(value.toExponential(1).replace("e+", "e").replace(".0e", "e")).replace("e-", "e−");
  return tidy(size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : value.toFixed(3));
}
export const cell = value => Math.abs(value) < 5e-4 ? "0" : tidy(value.toFixed(Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3));
export const percent = value => value * 100 >= 0.05 ? `${(value * 100).toFixed(1)} %` : "0";
export const whole = value => value.toLocaleString("en-US");
export const range = (from, to) => from === to ? `${from}` : `${from}–${to}`;
export const counted = (count, what) => `${whole(count)} ${what}${count === 1 ? "" : "s"}`;
