// Questions to the program that serves this page.
let lost = () => {}, back = () => {};
export const watch = (onLost, onBack) => { lost = onLost; back = onBack; };

async function ask(name, body) {
  let answer;
  try { answer = await fetch(`api/${name}`, { method: "POST", body: JSON.stringify(body) }); }
  catch (error) { lost(); throw new Error("The program ended."); }
  back();
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}
export const post = async (name, body = {}) => (await ask(name, body)).json();
// The same of numbers, some of which may be none: JSON has no word for them, so they come as text.
const NUMBERS = { __proto__: null, nan: NaN, inf: Infinity, "-inf": -Infinity };
export const postNumbers = async (name, body) => JSON.parse(await (await ask(name, body)).text(), (_, v) => NUMBERS[v] ?? v);
export async function binary(name, body) {
  const buffer = await (await ask(name, body)).arrayBuffer();
  return new Float32Array(buffer);
}
// A JSON header, its length before it, float32 behind it.
export async function packed(name, body) {
  const buffer = await (await ask(name, body)).arrayBuffer(), size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  return { ...header, data: new Float32Array(buffer, 4 + size) };
}
// Only the latest of many questions is asked: while one is on its way, newer ones replace each other.
export function latest(run) {
  let busy = false, next = null;
  return async function ask(...given) {
    if (busy) { next = given; return; }
    busy = true;
    try { await run(...given); }
    catch (error) { if (error.message !== "The program ended.") console.warn(error.message); }
    finally { busy = false; if (next) { const again = next; next = null; ask(...again); } }
  };
}
