// Questions to the program that serves this page.
import { numbersOf, unpacked } from "./frames.js";
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
export const postNumbers = async (name, body) => numbersOf(await (await ask(name, body)).text());
export const binary = async (name, body) => new Float32Array(await (await ask(name, body)).arrayBuffer());
export const packed = async (name, body) => unpacked(await (await ask(name, body)).arrayBuffer());
