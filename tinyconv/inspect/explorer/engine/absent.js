// Break it, in a page that is one file: it takes the program, which changes its kernels.
import { el } from "./net.js";
import { emptied } from "./sheet.js";

export const asks = () => ({});
export const enter = () => {}, leave = () => {}, looked = () => {}, note = () => undefined, switches = () => {}, drawDock = undefined;
export const titles = () => ({ above: "what each layer puts out", below: ["Gradients", "as they are right; colour grows with their root", -1] });
export function drawInspector() {
  emptied().append(el("section", "top", "<h1>Ten classic mistakes</h1><p>Filters not turned, a gradient for every pixel under a pool, a forgotten 1/N: in the program, switches make such mistakes in copies of the kernels, train with them, and show which tensor a gradient check names.</p><p class=\"muted\">This page is one file and has no program behind it, so nothing can be broken here: tinyconv explore can.</p>"));
}
