// What each mode puts into the places that all modes share.
import { S, phone } from "./state.js";
import { esc } from "./numbers.js";
import { tools } from "./pad.js";
import * as breakit from "./breakit.js";
import * as train from "./train.js";

function read() {
  const { look, model, sample } = S, names = model.names, says = k => `<b>${esc(names[k])}</b>`;
  if (!look) return "";
  if (look.truth === null || look.truth === undefined) return look.answer === null ? "" : `read as ${says(look.answer)}`;
  if (look.assumed) return `read as ${says(look.answer)}<br><span class="muted">and taken for it</span>`;
  return `a ${says(look.truth)}, read as ${says(look.answer)}`;
}
const whose = () => S.sample.index !== undefined ? S.model.samples ? `test image ${S.model.numbers?.[S.sample.index] ?? S.sample.index}` : "nothing drawn yet" : "yours";

function underPicture(holder, canvas, v) {
  if (v.n !== S.model.lead) return;
  const say = document.createElement("p");
  say.className = "small under"; say.id = "read";
  say.innerHTML = `${read()}${phone() ? "" : `<br><span class="muted">${whose()}</span>`}`;
  holder.append(say);
  if (S.model.image) holder.append(tools(canvas, v));
}
export const MODES = {
  look: {
    name: "Look",
    titles: stop => ({
      above: S.look?.broken ? `first NaN: ${S.look.broken.join(", ")}` : S.model.step || !S.model.learns ? "what each layer puts out" : "what each layer puts out; this model was never trained",
      below: stop === "update" ? ["Steps", "what the optimiser adds to each weight; of filters over several maps, one slice", 1]
        : ["Gradients", `how much the loss rises per unit of each number; ${stop === "backward" ? "colour grows with its root" : "they come with the backward steps"}`, -1],
    }),
    underPicture,
  },
  train: {
    name: "Train",
    offered: () => S.model.trains,
    titles: train.titles,
    asks: train.asks, enter: train.enter, leave: train.leave, key: train.key,
    drawBar: train.drawBar, drawDock: train.drawDock, drawInspector: train.drawInspector,
    underPicture,
  },
  break: {
    name: "Break it",
    offered: () => S.model.breaks,
    titles: breakit.titles, note: breakit.note, switches: breakit.switches, looked: breakit.looked,
    asks: breakit.asks, enter: breakit.enter, leave: breakit.leave,
    drawDock: breakit.drawDock, drawInspector: breakit.drawInspector,
    underPicture,
  },
};
export const offered = () => Object.keys(MODES).filter(id => MODES[id].offered?.() ?? true);
