// Questions: to the program that serves this page or, in a page that is one file, to its own engine.
export { post, postNumbers, binary, packed, watch } from "./server.js";

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
