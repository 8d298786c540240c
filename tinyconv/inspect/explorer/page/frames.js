// How answers are written that are not plain JSON.
// Of numbers some may be none: JSON has no word for them, so they come as text.
const NUMBERS = { __proto__: null, nan: NaN, inf: Infinity, "-inf": -Infinity };
export const numbersOf = text => JSON.parse(text, (_, v) => NUMBERS[v] ?? v);
// A JSON header, its length before it, float32 behind it.
export function unpacked(buffer) {
  const size = new DataView(buffer).getUint32(0, true), header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  return { ...header, data: new Float32Array(buffer, 4 + size) };
}
