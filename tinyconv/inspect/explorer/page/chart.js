// Lines over steps, as SVG.
export const smooth = (values, n) => values.map((_, k) => { const part = values.slice(Math.max(0, k - n), k + n + 1); return part.reduce((a, b) => a + b, 0) / part.length; });
export const thin = (points, most = 400) => { const step = Math.ceil(points.length / most); return step > 1 ? points.filter((_, k) => k % step === 0 || k === points.length - 1) : points; };

// series: { points: [[x, y]], stroke, width, opacity, dots, label }; the labels at the right keep apart.
export function chart(w, h, series, { x1, y0, y1, log, ticks, say, play, until }) {
  const f = log ? Math.log : v => v, sx = x => x / Math.max(x1, 1) * w, sy = y => h - (f(Math.max(y0, Math.min(y1, y))) - f(y0)) / (f(y1) - f(y0)) * h;
  const grid = ticks.map(t => `<line x1="0" x2="${w}" y1="${sy(t)}" y2="${sy(t)}" stroke="var(--line)"/><text x="-8" y="${sy(t) + 4}" text-anchor="end">${say(t)}</text>`).join("");
  const draw = (points, s, opacity) => {
    if (!points.length) return "";
    const d = points.map(([x, y], k) => `${k ? "L" : "M"}${sx(x).toFixed(1)} ${sy(Number.isFinite(y) ? y : y1).toFixed(1)}`).join("");
    return `<g opacity="${opacity}"><path d="${d}" fill="none" stroke="${s.stroke}" stroke-width="${s.width ?? 1.75}" stroke-linejoin="round"/>${s.dots ? points.map(([x, y]) => `<circle cx="${sx(x).toFixed(1)}" cy="${sy(y).toFixed(1)}" r="2" fill="${s.stroke}"/>`).join("") : ""}</g>`;
  };
  let out = grid;
  const named = series.filter(s => s.label && s.points.length).map(s => ({ s, y: sy(s.points.at(-1)[1]) })).sort((a, b) => a.y - b.y);
  for (const s of series) {
    const faint = s.opacity ?? 1, cut = until ?? Infinity;                // what lies after the playhead fades
    out += draw(s.points.filter(p => p[0] <= cut), s, faint) + (cut < Infinity ? draw(s.points.filter(p => p[0] >= cut), s, faint * 0.45) : "");
  }
  named.forEach((n, k) => { if (k) n.y = Math.max(n.y, named[k - 1].y + 14); });
  const low = named.at(-1)?.y - h;
  for (const { s, y } of named) out += `<text x="${w + 8}" y="${y + 4 - Math.max(0, low)}" style="fill:${s.stroke};font-weight:600">${s.label}</text>`;
  if (play !== undefined) out += `<line x1="${sx(play)}" x2="${sx(play)}" y1="-6" y2="${h}" stroke="var(--accent)" stroke-width="1.5"/><circle cx="${sx(play)}" cy="-6" r="4" fill="var(--accent)"/>`;
  return out;
}
