// An explanation as the program would send it: rows of products that add up to one number (tinyconv/trace/explanation.py).
const LINES = 12, MOST_REASONS = 4096, MOST_TERMS = 5000, MOST_OTHERS = 8;
export const column = (name, values, places = null) => ({ name, values, places });
// Rows of products of their columns; why: of a row that is zero, the reason.
export function rows(columns, why = () => "") {
  const values = Array.from(columns[0].values, (_, row) => columns.reduce((so, c) => so * c.values[row], 1));
  return { columns, values, why };
}
export const single = (...factors) => rows(factors.map(([name, place, value]) => column(name, [value], place && [place])));
export const because = (row, why) => ({ ...row, why: () => why });
export const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
export const listed = place => place.join(", ");
// Short, as the program writes it: four digits, or four behind the point.
export function number(value) {
  if (!Number.isFinite(value)) return String(value).toLowerCase().replace("infinity", "inf");
  if (Math.abs(value) < 1e6 && Number.isInteger(value)) return String(value).replace("-", "−");
  return (Math.abs(value) >= 1e-2 && Math.abs(value) < 1e4 ? value.toFixed(4) : general(value)).replace("-", "−");
}
// Four digits, as Python's format ".4g" has them.
export function general(value, digits = 4) {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e"), e = +exponent;
  if (value === 0) return "0";
  const bare = text => text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  return e < -4 || e >= digits ? `${bare(mantissa)}e${e < 0 ? "-" : "+"}${String(Math.abs(e)).padStart(2, "0")}` : bare(value.toFixed(digits - 1 - e));
}
const term = (each, row) => ({ value: each.values[row], factors: each.columns.map(c => ({ name: c.name, place: c.places?.[row] ?? null, value: c.values[row] })), why: each.values[row] ? "" : each.why(row) });

function shown(all) {
  if (all.length <= LINES) return { terms: all.map(([each, row]) => term(each, row)), rest: null };
  const order = [...all.keys()].sort((a, b) => Math.abs(value(all[b])) - Math.abs(value(all[a])) || a - b), first = order.slice(0, LINES - 1), rest = order.slice(LINES - 1).map(k => all[k]);
  const zeros = rest.filter(each => value(each) === 0), reasons = {};
  if (zeros.length <= MOST_REASONS) for (const [each, row] of zeros) { const why = each.why(row); if (why) reasons[why] = (reasons[why] ?? 0) + 1; }
  return { terms: first.map(k => term(...all[k])), rest: { count: rest.length, sum: rest.reduce((so, each) => so + value(each), 0), zeros: zeros.length, reasons } };
}
const value = ([each, row]) => each.values[row];
// Of a sum of products, all of them in columns.
function products(found) {
  const most = found.reduce((best, each) => !best || each.values.length > best.values.length ? each : best, null);
  if (!most || most.values.length < 2 || most.values.length > MOST_TERMS || most.columns.length !== 2) return {};
  const others = found.filter(each => each !== most).flatMap(each => each.values.map((_, row) => term(each, row)));
  return {
    products: { columns: most.columns.map(c => ({ name: c.name, values: [...c.values], places: c.places })), why: most.values.map((v, row) => v ? "" : most.why(row)), values: most.values },
    others: others.slice(0, MOST_OTHERS).map(t => ({ value: t.value, factors: t.factors })),
  };
}
// theory: formula and reference, which the program has written down for every array of the model.
export function explanation({ layer, what, place, value, found, sentences = [], then = [], facts = [], weight = "" }, theory) {
  const all = found.flatMap(each => each.values.map((_, row) => [each, row])), sum = all.reduce((so, [each, row]) => so + each.values[row], 0);
  const of = weight ? `'${weight}', ` : "", at = place.length === 1 ? `(${place[0]},)` : `(${place.join(", ")})`;
  return { layer, what, place, value, sum, count: all.length, ...shown(all), then, facts, sentences: sentences.filter(Boolean), ...theory, call: !place.length ? "trace.explain_loss()" : `trace['${layer}'].explain('${what}', ${of}${at})`, ...products(found) };
}
