// The panel: on a phone a sheet, which a tap on its handle or a drag makes tall or small again.
import { S, $ } from "./state.js";
import { el } from "./net.js";

const TAP = 6, TALL = 0.6;                   // pixels that a finger may move; of the window's height, where the sheet stays tall
let act = {};
export const sheetHandlers = given => { act = given; };

// The panel with nothing in it but its handle.
export function emptied() {
  const panel = $("#inspector"), handle = el("button", "handle");
  let dragged = false;
  handle.setAttribute("aria-label", S.sheet ? "make the panel small" : "make the panel large");
  handle.dataset.key = "handle";
  handle.onpointerdown = down => {
    const before = panel.offsetHeight;
    dragged = false;
    handle.setPointerCapture(down.pointerId);
    handle.onpointermove = e => {
      dragged ||= Math.abs(e.clientY - down.clientY) > TAP;
      if (dragged) panel.style.height = `${Math.max(60, Math.min(innerHeight * 0.92, before + down.clientY - e.clientY))}px`;
    };
    handle.onpointerup = handle.onpointercancel = () => {
      const tall = panel.offsetHeight > innerHeight * TALL;
      panel.style.height = ""; handle.onpointermove = null;
      if (dragged && tall !== S.sheet) act.sheet();
    };
  };
  handle.onclick = () => { if (!dragged) act.sheet(); dragged = false; };
  panel.replaceChildren(handle);
  return panel;
}
